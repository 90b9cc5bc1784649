"""Rewards with gradients give the pixels the score they give the image, and a true gradient."""

import numpy as np
import pytest
import torch
from PIL import Image

from visalign.media.samples import Sample
from visalign.rewards import load_reward


@pytest.mark.parametrize("name", ["tiny-clip", "tiny-reward", "colourfulness", "saturation", "contrast"])
def test_pixels_score_as_their_image_and_have_a_gradient(name):
    values = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    prompts = ["a red fruit", "a cat face"]
    reward = load_reward(name)
    expected = reward.score([Sample(p, Image.fromarray(v)) for p, v in zip(prompts, values, strict=True)]).values
    pixels = torch.from_numpy(values).permute(0, 3, 1, 2).float().div(255).requires_grad_(True)
    found = reward.score_pixels(pixels, prompts)
    known = expected.isfinite()
    torch.testing.assert_close(found.detach()[known], expected[known], atol=2e-4, rtol=1e-3)
    gradient = torch.autograd.grad(found[:, 0].sum(), pixels)[0]
    assert gradient.abs().amax((1, 2, 3)).min() > 0
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        change = (reward.score_pixels(pixels + step, prompts) - reward.score_pixels(pixels - step, prompts))[:, 0].sum()
    assert change.item() == pytest.approx(2e-2 * gradient.norm().item(), rel=0.05)


def test_images_of_another_size_are_resized_with_gradients():
    pixels = torch.rand(1, 3, 48, 48, requires_grad=True)
    load_reward("tiny-clip").score_pixels(pixels, ["a red fruit"]).sum().backward()
    assert pixels.grad.abs().sum() > 0


@pytest.mark.parametrize("name, rows, value", [
    ("contrast", [[[0, 0, 0], [255, 255, 255]]], 0.5), ("saturation", [[[255, 0, 0], [255, 255, 255]]], 0.5),
    # rg = (255, 0), yb = (127.5, 0): std 127.5 and 63.75, means the same
    ("colourfulness", [[[255, 0, 0], [255, 255, 255]]], 1.3 * (127.5**2 + 63.75**2) ** 0.5)])
def test_smooth_rules_by_hand(name, rows, value):
    image = Image.fromarray(np.array(rows, dtype=np.uint8))
    assert load_reward(name).score([Sample("", image)]).values.item() == pytest.approx(value, rel=1e-5)
