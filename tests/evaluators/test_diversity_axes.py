"""The four axes of diversity, by hand."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from visalign.evaluators.diversity_axes import (
    boxes_of,
    identity_similarity,
    layout_dispersion,
    overlap,
    retrievable,
    style_coverage,
    tonal_variance,
)
from visalign.evaluators.style import STYLE


def box(*numbers):
    return np.array([numbers], np.float64)


def test_overlap_is_the_best_matching_over_the_larger_number():
    a = np.concatenate([box(0, 0, 0.5, 0.5), box(0.5, 0.5, 1, 1)])
    assert overlap(a, a[::-1]) == pytest.approx(1)
    assert overlap(a, a[:1]) == pytest.approx(0.5)
    assert overlap(box(0, 0, 0.5, 0.5), box(0.25, 0, 0.75, 0.5)) == pytest.approx(1 / 3)
    none = np.zeros((0, 4))
    assert overlap(none, none) == 1 and overlap(none, a) == 0


def test_layout_dispersion_of_fixed_and_moving_objects():
    fixed, moving = [[box(0, 0, 0.5, 0.5)] * 3], [[box(0, 0, 0.3, 0.3), box(0.5, 0.5, 0.9, 0.9)]]
    assert layout_dispersion(fixed).value == 0 and layout_dispersion(moving).value == 1


def test_boxes_are_connected_parts():
    image = Image.new("RGB", (100, 100), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((10, 10, 29, 29), fill="red")
    draw.rectangle((60, 50, 89, 69), fill="blue")
    draw.point((5, 90), fill="black")  # too small to count
    assert boxes_of(image).tolist() == [[0.1, 0.1, 0.3, 0.3], [0.6, 0.5, 0.9, 0.7]]
    assert boxes_of(Image.new("RGB", (20, 20), "grey")).shape == (0, 4)


def test_identity_similarity_is_the_mean_cosine():
    alike, apart = torch.tensor([[[1.0, 0]] * 3] * 4), torch.eye(3)[None].repeat(4, 1, 1)
    assert identity_similarity(alike).value == pytest.approx(1) and identity_similarity(apart).value == pytest.approx(0)
    two = torch.tensor([[[1.0, 0], [1, 0], [0, 1]]] * 4)
    assert identity_similarity(two).value == pytest.approx(1 / 3)


def test_retrievable_corrects_for_the_number_of_queries():
    assert retrievable(np.zeros(50), 10) == 0.1
    assert retrievable(np.arange(10), 10) == 1.0
    # 20 draws from 8 entries hit 8 (1 - (7/8)^20) = 7.45 of them; hitting 7 means a little less than 8
    draws = np.concatenate([np.arange(7), np.zeros(13)])
    m = 100 * retrievable(draws, 100)
    assert m * (1 - (1 - 1 / m) ** 20) == pytest.approx(7, abs=1e-6) and 7 < m < 8


def test_style_coverage_falls_with_collapse():
    references = torch.nn.functional.normalize(torch.randn(200, 16), dim=-1)
    varied = references[torch.randperm(200)[:120]].view(30, 4, 16)
    collapsed = references[:1].repeat(120, 1).view(30, 4, 16)
    assert style_coverage(varied, references).value > 0.5 > 0.1 > style_coverage(collapsed, references).value
    with pytest.raises(ValueError, match="at least 20"):
        style_coverage(varied, references[:10])


def test_tonal_variance_adds_three_standard_deviations():
    style = np.zeros((2, 2, len(STYLE)))
    for name, values in {"saturation": (0, 1, 0, 1), "luminance": (0, 0, 1, 1), "contrast": (0.5,) * 4}.items():
        style[:, :, STYLE.index(name)] = np.reshape(values, (2, 2))
    assert tonal_variance(style).value == pytest.approx(0.5 + 0.5)
