"""Style statistics on images whose numbers are known."""

import math

import numpy as np
import pytest
from PIL import Image

from visalign.evaluators.style import STYLE, drift, entropies, style_of
from visalign.media.samples import Sample, Video


def style(image):
    return dict(zip(STYLE, style_of(Sample("x", image)), strict=True))


def test_statistics_of_plain_images():
    white, black = (style(Image.new("RGB", (32, 32), colour)) for colour in ("white", "black"))
    assert white["luminance"] == pytest.approx(1) and white["highlights"] == 1 and white["shadows"] == 0
    assert black["luminance"] == 0 and black["shadows"] == 1 and black["highlights"] == 0
    red = style(Image.new("RGB", (32, 32), (255, 0, 0)))
    assert red["saturation"] == pytest.approx(1) and red["luminance"] == pytest.approx(0.299)
    assert red["contrast"] == red["sharpness"] == red["edges"] == 0
    # opponent colours 255 and 127.5, without spread: 0.3 sqrt(255^2 + 127.5^2)
    assert red["colourfulness"] == pytest.approx(0.3 * math.hypot(255, 127.5))


def test_edges_and_contrast_of_a_step():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    found = style(Image.fromarray(pixels))
    assert found["contrast"] == pytest.approx(0.5) and found["edges"] == pytest.approx(2 / 32)


def test_large_images_are_measured_at_one_size():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    big = Image.fromarray(pixels).resize((512, 512), Image.Resampling.NEAREST)
    bigger = big.resize((1024, 1024), Image.Resampling.NEAREST)
    assert style_of(Sample("x", big)) == pytest.approx(style_of(Sample("x", bigger)), rel=1e-6)


def test_a_video_is_the_mean_of_its_frames():
    frames = [Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")]
    assert style_of(Sample("x", Video(frames, 4.0)))[0] == pytest.approx(0.5)


def test_drift_is_in_standard_deviations_of_the_base():
    base = np.array([0.2, 0.4, 0.6])
    assert drift("saturation", base, base + 0.3, spread=0.1).value == pytest.approx(3)
    # a base without spread counts as varying by 1 % of the statistic's natural size
    assert drift("saturation", base, base + 0.02, spread=0.0).value == pytest.approx(2)


def test_entropies_within_and_across():
    values = np.repeat(np.linspace(0.01, 0.99, 16)[:, None], 4, axis=1)  # every prompt its own value
    within, across = entropies(values, 0.0, 1.0)
    assert within == 0 and across == pytest.approx(math.log(16))
    same = np.tile([0.1, 0.9], (5, 1))
    assert entropies(same, 0.0, 1.0) == pytest.approx((math.log(2), math.log(2)))
    assert entropies(same, 0.5, 0.5) == (0.0, 0.0)
