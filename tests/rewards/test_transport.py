"""PISCES's quality: texts carried among videos, and files that do not fit."""

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import build_reward, load_reward
from visalign.storage.weights import write_tensors

SIZE = 128
RED, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))


@pytest.fixture
def written(tmp_path):
    def write(**tensors):
        write_tensors(tmp_path / "map.safetensors", tensors)
        return {"kind": "transport_quality", "of": "tiny-clip", "map": str(tmp_path / "map.safetensors")}

    return write


def test_the_map_that_does_nothing_is_the_plain_cosine(written):
    samples = [Sample("a red fruit", RED), Sample("a blue heart", BLUE)]
    found = load_reward(written(matrix=torch.eye(SIZE), shift=torch.zeros(SIZE))).score(samples)
    torch.testing.assert_close(found.values, load_reward("tiny-clip").score(samples).values)


def test_a_video_is_its_mean_frame_and_the_text_is_carried(written):
    rng = torch.Generator().manual_seed(0)
    matrix, shift = torch.randn(SIZE, SIZE, generator=rng), torch.randn(SIZE, generator=rng)
    reward, clip = load_reward(written(matrix=matrix, shift=shift)), load_reward("tiny-clip")
    video = Video([RED, BLUE, BLUE, BLUE], 8.0)
    found = reward.score([Sample("a red fruit", video), Sample("a red fruit", RED)]).values[:, 0]
    text = F.normalize(clip.text_features(["a red fruit"])[0] @ matrix + shift, dim=0)
    red, blue = clip.features([RED, BLUE])
    torch.testing.assert_close(found, torch.stack([F.normalize(red + 3 * blue, dim=0) @ text, red @ text]))


def test_it_has_gradients(written):
    reward = load_reward(written(matrix=torch.eye(SIZE), shift=torch.ones(SIZE)))
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    assert torch.autograd.grad(reward.score_pixels(pixels, ["a red fruit"]).sum(), pixels)[0].abs().sum() > 0


@pytest.mark.parametrize("tensors, message", [
    ({"matrix": torch.eye(64), "shift": torch.zeros(64)}, "has 64 numbers and the features of tiny-clip have 128"),
    ({"matrix": torch.eye(SIZE)}, r"holds matrix \[128, 128\]; expected matrix \[d, d\] and shift"),
    ({"matrix": torch.ones(SIZE, 3), "shift": torch.zeros(SIZE)}, r"expected matrix \[d, d\] and shift \[d\]"),
    ({"matrix": torch.eye(SIZE), "shift": torch.zeros(1, SIZE)}, "expected matrix")])
def test_files_that_do_not_fit_are_refused_before_anything_is_loaded(written, tensors, message):
    with pytest.raises(UserError, match=message):
        build_reward(written(**tensors)).check()


def test_other_mistakes_are_named(written):
    spec = written(matrix=torch.eye(SIZE), shift=torch.zeros(SIZE))
    for given, message in (({"map": ""}, "set map to the file"), ({"map": "gone.safetensors"}, "there is no such file"),
                           ({"of": "jpeg"}, "has no features"), ({"map": "map.bin"}, "pickled")):
        with pytest.raises(UserError, match=message):
            load_reward(spec | given)
