"""D2-Align: the moved texts by hand, what learning finds, and files that do not fit."""

import math

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import build_reward, load_reward
from visalign.rewards.directional import guided_texts, learn_direction
from visalign.storage.weights import write_tensors


def unit(*values):
    return F.normalize(torch.tensor(values), dim=-1)


def test_the_moved_texts_by_hand():
    # e (1, 0), b (0, 1): e+ = (1, 1)/sqrt 2, e- = (1, -1)/sqrt 2, e~ = (1, -1 + 1.5 2)/sqrt 2, of direction (1, 2)
    found = guided_texts(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0]), 1.5)
    torch.testing.assert_close(found, torch.tensor([[1.0, 2.0]]) / math.sqrt(5))
    # omega 1 stops at e+
    torch.testing.assert_close(guided_texts(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0, 1.0]), 1.0), unit([1., 1.]))


def test_without_a_direction_it_is_the_plain_cosine():
    texts = F.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    torch.testing.assert_close(guided_texts(texts, torch.zeros(8), 1.5), texts)


@pytest.mark.parametrize("omega", [1.0, 1.5, 3.0])
def test_a_small_direction_counts_two_omega_less_one_times(omega):
    text, b = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 1e-4, 2e-4], dtype=torch.float64)
    found = guided_texts(text, b, omega)
    torch.testing.assert_close(found / found[0], text + (2 * omega - 1) * b, atol=1e-7, rtol=0)


def planted(count=64, dimensions=8):
    """Images that share a taste along the last axis, whatever their text."""
    rng = torch.Generator().manual_seed(1)
    texts = torch.randn(count, dimensions, generator=rng)
    texts[:, -1] = 0
    texts = F.normalize(texts, dim=-1)
    taste = torch.zeros(dimensions)
    taste[-1] = 1
    return F.normalize(texts + taste, dim=-1), texts, taste


def test_learning_finds_the_taste_that_images_share_and_raises_the_reward():
    images, texts, taste = planted()
    b = learn_direction(images, texts, 1.5, 100, 0.01, torch.Generator().manual_seed(0))
    assert F.cosine_similarity(b, taste, dim=0) > 0.9
    before, after = ((images * guided_texts(texts, each, 1.5)).sum(-1).mean() for each in (torch.zeros(8), b))
    assert after > before + 0.2
    held = learn_direction(images, texts, 1.5, 100, 0.01, torch.Generator().manual_seed(0), longest=0.3)
    assert held.norm().item() == pytest.approx(0.3) and F.cosine_similarity(held, taste, dim=0) > 0.9
    again = learn_direction(images, texts, 1.5, 100, 0.01, torch.Generator().manual_seed(0))
    assert torch.equal(b, again)


def test_with_the_taste_asked_for_it_no_longer_pays():
    """More of the taste in an image raises the plain cosine of a text without it less than the moved one's."""
    images, texts, taste = planted()
    b = learn_direction(images, texts, 1.5, 300, 0.01, torch.Generator().manual_seed(0))
    moved = guided_texts(texts, b, 1.5)
    without = F.normalize(texts + 0.5 * taste, dim=-1)
    assert ((images - without) * moved).sum(-1).mean() > ((images - without) * texts).sum(-1).mean()


SIZE = 128
IMAGES = [Image.new("RGB", (64, 64), colour) for colour in ("red", "yellow")]
SAMPLES = [Sample("a red fruit", IMAGES[0]), Sample("a cat face", IMAGES[1])]


@pytest.fixture
def written(tmp_path):
    def write(**tensors):
        write_tensors(tmp_path / "b.safetensors", tensors)
        return {"kind": "directional", "of": "tiny-clip", "correction": str(tmp_path / "b.safetensors")}

    return write


def test_it_scores_images_and_pixels_alike_with_gradients(written):
    b = 0.05 * torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    reward, clip = load_reward(written(direction=b)), load_reward("tiny-clip")
    found = reward.score(SAMPLES).values
    texts = guided_texts(clip.text_features([s.prompt for s in SAMPLES]), b, 1.5)
    torch.testing.assert_close(found[:, 0], (clip.features(IMAGES) * texts).sum(-1))
    pixels = torch.stack([torch.tensor(image.getpixel((0, 0))) / 255 for image in IMAGES])[:, :, None, None]
    pixels = pixels.expand(2, 3, 64, 64).clone().requires_grad_(True)
    smooth = reward.score_pixels(pixels, [s.prompt for s in SAMPLES])
    torch.testing.assert_close(smooth.detach(), found, atol=2e-4, rtol=0)
    assert torch.autograd.grad(smooth.sum(), pixels)[0].abs().amax((1, 2, 3)).min() > 0


def test_a_zero_direction_is_the_plain_reward_and_a_mean_is_added(written):
    clip, plain = load_reward("tiny-clip"), load_reward("tiny-clip").score(SAMPLES).values
    torch.testing.assert_close(load_reward(written(direction=torch.zeros(SIZE))).score(SAMPLES).values, plain)
    shift = 0.3 * torch.randn(SIZE, generator=torch.Generator().manual_seed(2))
    texts = F.normalize(clip.text_features([s.prompt for s in SAMPLES]) + shift, dim=-1)
    found = load_reward(written(mean=shift)).score(SAMPLES).values[:, 0]
    torch.testing.assert_close(found, (clip.features(IMAGES) * texts).sum(-1))


@pytest.mark.parametrize("tensors, message", [
    ({"direction": torch.zeros(64)}, "has 64 numbers and the features of tiny-clip have 128"),
    ({"direction": torch.zeros(1, 128)}, r"holds direction \[1, 128\]; expected direction \[d\]"),
    ({"b": torch.zeros(128)}, r"holds b \[128\]; expected"),
    ({"direction": torch.zeros(128), "mean": torch.zeros(128)}, "expected direction")])
def test_files_that_do_not_fit_are_refused_before_anything_is_loaded(written, tensors, message):
    with pytest.raises(UserError, match=message):
        build_reward(written(**tensors)).check()


def test_other_mistakes_are_named(written, tmp_path):
    spec = written(direction=torch.zeros(SIZE))
    for given, message in (({"correction": ""}, "set correction to the file that `visalign reward direct` wrote"),
                           ({"correction": "gone.safetensors"}, "there is no such file"), ({"omega": 0.5}, "omega"),
                           ({"correction": "b.pt"}, "pickled weights"), ({"of": "sharpness"}, "has no features")):
        with pytest.raises(UserError, match=message):
            load_reward(spec | given)
    nan = torch.full((SIZE,), math.nan)
    with pytest.raises(UserError, match="nan|finite"):
        load_reward(written(direction=nan)).score(SAMPLES)
