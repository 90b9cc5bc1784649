"""Pixel distances between generations of a prompt."""

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from visalign.errors import UserError
from visalign.evaluators.perceptual import Lpips, as_batch, find_lpips, ms_ssim_distance, pairs_of


def test_pairs_are_all_of_few_and_a_fixed_choice_of_many():
    assert pairs_of(3) == [(0, 1), (0, 2), (1, 2)] and len(pairs_of(8)) == 28
    many = pairs_of(16)
    assert len(many) == len(set(many)) == 28 and many == pairs_of(16)


@pytest.mark.parametrize("side", [175, 98, 43, 16, 64, 192])
def test_ms_ssim_of_equal_and_different_images(side):
    noise = torch.rand(3, 3, side, side)
    assert ms_ssim_distance(noise[:1].repeat(3, 1, 1, 1)) == pytest.approx(0, abs=1e-4)
    assert ms_ssim_distance(noise) > 0.3
    near = noise[:1] + 0.02 * torch.rand(3, 3, side, side)
    assert ms_ssim_distance(near.clamp(0, 1)) < ms_ssim_distance(noise)


def test_ms_ssim_of_tiny_images_is_undefined():
    assert ms_ssim_distance(torch.rand(2, 3, 8, 8)) != ms_ssim_distance(torch.rand(2, 3, 8, 8))  # NaN


def test_images_are_brought_to_one_size():
    batch = as_batch([Image.new("RGB", (600, 400)), Image.new("RGB", (300, 500))])
    assert batch.shape == (2, 3, 256, 256) and as_batch([Image.new("RGB", (64, 80))] * 2).shape[-1] == 64


@pytest.fixture
def alexnet(tmp_path):
    shapes = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
    weights = {}
    for number, (out, inner, size) in shapes.items():
        weights[f"features.{number}.weight"] = torch.randn(out, inner, size, size) * 0.05
        weights[f"features.{number}.bias"] = torch.zeros(out)
    save_file(weights, tmp_path / "alexnet.safetensors")
    torch.save(weights, tmp_path / "alexnet.pth")
    return tmp_path


def test_lpips_reads_an_alexnet_and_measures(alexnet):
    lpips = Lpips(alexnet / "alexnet.safetensors")
    same, other = torch.rand(1, 3, 64, 64).repeat(2, 1, 1, 1), torch.rand(2, 3, 64, 64)
    assert lpips.distance(same) == pytest.approx(0, abs=1e-6) and lpips.distance(other) > 0
    assert Lpips(alexnet / "alexnet.pth").distance(other) == pytest.approx(lpips.distance(other))
    assert torch.equal(lpips.network.net.slice3[1].bias, torch.zeros(384))


def test_lpips_without_weights_or_with_wrong_ones(alexnet, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    assert find_lpips() is None
    with pytest.raises(UserError, match="no such file"):
        find_lpips(str(tmp_path / "none.pth"))
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="is not torchvision's AlexNet"):
        Lpips(tmp_path / "other.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        Lpips(tmp_path / "broken.pth")
