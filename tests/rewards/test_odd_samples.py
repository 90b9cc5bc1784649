"""Images, videos and prompts that are odd but honest, and those that nobody can score."""

import pytest
from PIL import Image

from visalign.media.answers import Answer
from visalign.media.samples import Sample, Video
from visalign.rewards import build_reward, load_reward

RED = Image.new("RGB", (8, 8), "red")
GLASS = Image.new("RGBA", (8, 8), (255, 0, 0, 0))


@pytest.mark.parametrize("kind", ["exposure", "saturation", "contrast", "tiny-clip"])
def test_what_is_transparent_is_scored_as_white(kind):
    white = Image.new("RGB", (8, 8), "white")
    reward = load_reward(kind)
    clear, plain = reward.score([Sample("a red fruit", GLASS), Sample("a red fruit", white)]).values
    assert clear.equal(plain)


def test_grey_and_palette_images_are_scored_as_rgb():
    grey = Image.linear_gradient("L")
    given = (grey, grey.convert("RGB"), grey.convert("P"))
    values = load_reward("contrast").score([Sample("", each) for each in given])
    assert values.values[0] == values.values[1] and values.values[2].isfinite().all()


@pytest.mark.parametrize(
    "kind, media, reason",
    [
        ("contrast", Image.new("F", (8, 8)), "range is not known"),
        ("sharpness", Image.new("RGB", (1, 9)), "at least 3 x 3 pixels"),
        ("motion", Video([], 8.0), "no frames"),
        ("motion", Video([RED, RED.resize((4, 4))], 8.0), "differ in size"),
        ("motion", Video([RED], 8.0), "1 frames, at least 2 are needed"),
        ("motion", RED, "this is an image"),
    ],
)
def test_what_nobody_can_score_is_nan_with_its_reason(kind, media, reason):
    answer = load_reward(kind).score([Sample("a red fruit", media)])
    assert answer.values.isnan().all() and reason in answer.remarks[0]


def test_a_prompt_longer_than_the_model_reads_is_scored_and_said():
    answer = load_reward("tiny-clip").score([Sample("red apple " * 200, RED), Sample(" \n", RED)])
    assert answer.values[0].isfinite().all() and "prompt cut to the model's 16 tokens" in answer.remarks[0]
    assert answer.values[1].isnan().all() and answer.remarks[1] == "no prompt"


@pytest.mark.parametrize("kind", ["jpeg", "sharpness", "colour", "ocr", "motion", "flicker", "prompt_motion",
                                  "tiny-clip", "tiny-reward", "tiny-group", "tiny-edit", "background_kept",
                                  "pickscore", "vlm", "vlm_pairs", "unifiedreward", "videoreward", "hpsv3"])
def test_rewards_of_images_refuse_a_text_before_anything_is_loaded(kind):
    spec = {"vlm": {"kind": "vlm", "url": "http://127.0.0.1:1/v1"}, "vlm_pairs": {
        "kind": "vlm_pairs", "url": "http://127.0.0.1:1/v1"}, "unifiedreward": {
        "kind": "unifiedreward", "url": "http://127.0.0.1:1/v1"}}.get(kind, kind)
    answer = build_reward(spec).score([Sample("a red fruit", Answer("red"))])
    assert answer.values.isnan().all() and "only, this is a text" in answer.remarks[0]
