"""Rewards of edits, on numbers worked out by hand, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample, Video
from visalign.rewards import ClipScore, check_sources_given, load_reward
from visalign.rewards.registry import load_rewards


def grey(*columns):
    """An image 2 high whose columns have these values."""
    return Image.fromarray(np.repeat(np.tile(np.array(columns, np.uint8), (2, 1))[..., None], 3, 2))


def edit(result, source, prompt="make it darker", **known):
    return Sample(prompt, result, known=known, sources=(source,))


def score(kind, *samples):
    return load_reward(kind).score(list(samples))


def test_background_is_measured_outside_the_mask(tmp_path):
    grey(255, 255, 0, 0).save(tmp_path / "mask.png")
    source, result = grey(0, 0, 0, 0), grey(255, 255, 51, 0)  # outside the mask: 0.2 and 0; over all: 1, 1, 0.2, 0
    masked, bare = edit(result, source, mask=str(tmp_path / "mask.png")), edit(result, source)
    answer = score("background_kept", masked, bare)
    assert answer.values.flatten().tolist() == pytest.approx([1 - (0.04 / 2) ** 0.5, 1 - (2.04 / 4) ** 0.5])
    assert answer.remarks == {1: "no mask, so the whole image is compared with its source"}
    assert score("source_change", masked).values.item() == pytest.approx((2.04 / 4) ** 0.5)
    assert score("source_change", edit(source, source)).values.item() == 0
    grey(255, 255, 255, 255).save(tmp_path / "all.png")
    assert "leaves nothing outside" in score("background_kept", edit(result, source, mask=str(tmp_path / "all.png"))
                                             ).remarks[0]


def test_background_by_ssim_is_one_for_the_same_and_forgives_brightness():
    noise = Image.effect_noise((24, 24), 60).convert("RGB")
    brighter, other = noise.point(lambda v: min(255, v + 20)), Image.effect_noise((24, 24), 60).convert("RGB")
    answer = score({"kind": "background_kept", "distance": "ssim"}, *(edit(each, noise)
                                                                    for each in (noise, brighter, other)))
    same, light, different = answer.values.flatten().tolist()
    assert same == pytest.approx(1) and light > 0.8 > 0.3 > different
    small = score({"kind": "background_kept", "distance": "ssim"}, edit(grey(0, 0), grey(0, 0)))
    assert "at least 11 x 11" in small.remarks[0]


def test_clip_direction_is_the_cosine_of_two_differences():
    clip = ClipScore("tiny-clip")
    red, blue = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    images = clip.features([blue, red])
    texts = clip.text_features(["a blue square", "a red square", "paint it", "a photo"])
    expected = [F.cosine_similarity(images[1] - images[0], texts[1] - texts[0], dim=0),
                F.cosine_similarity(images[1] - images[0], texts[2] - texts[3], dim=0), torch.tensor(0.0)]
    captions = {"source_caption": "a blue square", "target_caption": "a red square"}
    answer = score({"kind": "clip_direction", "source": "tiny-clip"}, edit(red, blue, "paint it", **captions),
                   edit(red, blue, "paint it"), edit(blue, blue, "paint it"))
    torch.testing.assert_close(answer.values[:, 0], torch.stack(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["background_kept", "source_change", {"kind": "clip_direction", "source": "tiny-clip"},
                                  {"kind": "ensemble", "of": ["source_change", "background_kept"]}])
def test_a_sample_without_a_source_is_refused_in_one_sentence(kind):
    answer = score(kind, Sample("make it red", Image.new("RGB", (64, 64))))
    assert answer.values.isnan().all() and answer.remarks[0].startswith("no source image")
    with pytest.raises(UserError, match="compares results with their source images, and eval.prompts 'a cat' has none"):
        check_sources_given([load_reward(kind)], ["make it red@@a.png", "a cat"], "eval.prompts")


def test_sources_reach_the_frames_of_a_video_and_any_mode_is_read():
    video = Video([grey(51, 51), grey(153, 153)], 8.0)
    [reward] = load_rewards(["source_change"])
    answer = reward.score([Sample("move", video, sources=(Image.new("L", (2, 2), 0),))])
    assert answer.values.item() == pytest.approx((0.2 + 0.6) / 2)
