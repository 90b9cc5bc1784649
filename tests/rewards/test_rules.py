"""Measurements against images whose answer is known."""

import io

import numpy as np
import pytest
from PIL import Image

from visalign.media.samples import Sample, Video
from visalign.rewards import load_reward
from visalign.rewards.ocr import quoted_text, text_score


def plain(colour, size=(8, 8)):
    return Sample("a red thing", Image.new("RGB", size, colour))


def one(name, sample, **settings):
    return load_reward({"kind": name, **settings}).score([sample]).values.item()


def test_jpeg_is_minus_or_plus_the_kilobytes_of_the_file():
    sample = Sample("x", Image.effect_noise((64, 64), 50).convert("RGB"))
    buffer = io.BytesIO()
    sample.image.save(buffer, "JPEG", quality=95)
    assert one("jpeg", sample) == pytest.approx(-len(buffer.getvalue()) / 1000)
    assert one("jpeg", sample, incompressible=True) == -one("jpeg", sample)


def test_flat_images_have_no_sharpness_contrast_or_colourfulness():
    for name in ("sharpness", "contrast", "colourfulness", "saturation"):
        assert one(name, plain((120, 120, 120))) == pytest.approx(0, abs=1e-6)


def test_contrast_of_half_black_half_white_is_one_half():
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 4, 8))
    assert one("contrast", Sample("x", image)) == pytest.approx(0.5, abs=1e-6)


def test_exposure_is_one_in_the_middle_and_punishes_clipping():
    assert one("exposure", plain((127, 128, 128))) == pytest.approx(1, abs=0.01)
    assert one("exposure", plain("black")) == pytest.approx(-1) and one("exposure", plain("white")) == pytest.approx(-1)


def test_saturation_is_that_of_hsv():
    assert one("saturation", plain((200, 100, 100))) == pytest.approx(0.5, abs=1e-6)


def test_colourfulness_of_pure_red_is_its_formula():
    # rg = 255, yb = 127.5, no spread: 0.3 sqrt(255^2 + 127.5^2) = 85.53
    assert one("colourfulness", plain("red")) == pytest.approx(85.53, abs=0.01)


def test_colour_of_the_prompt_counts_drawn_pixels_only():
    image = Image.new("RGB", (10, 10), "white")
    image.paste((220, 30, 30), (0, 0, 10, 3))
    image.paste((30, 30, 220), (0, 3, 10, 4))
    reward = load_reward("colour")
    answer = reward.score([Sample("a red apple", image), Sample("a blue apple", image), Sample("an apple", image)])
    assert answer.values[:2].flatten().tolist() == pytest.approx([0.75, 0.25])
    assert answer.values[2].isnan() and answer.remarks[2] == "the prompt names no colour"


def moving(step, dark=None, count=6):
    frames = []
    for i in range(count):
        pixels = np.full((16, 32, 3), 255, np.uint8)
        pixels[4:12, 2 + step * i : 6 + step * i] = 0
        frames.append(Image.fromarray(pixels // 2 if i == dark else pixels))
    return Sample("x", Video(frames, 8.0))


def test_motion_is_zero_for_a_frozen_video_and_grows_with_speed():
    # 4 columns of 8 pixels leave and 4 enter of 512: 2 * 32 / 512 of luma
    assert one("motion", moving(0)) == 0
    assert one("motion", moving(4)) == pytest.approx(64 / 512, abs=1e-6)
    assert one("motion", moving(2)) == pytest.approx(32 / 512, abs=1e-6)


def test_flicker_sees_a_dark_frame_and_not_steady_motion():
    assert one("flicker", moving(4)) == pytest.approx(0, abs=1e-6)
    assert one("flicker", moving(4, dark=2)) < -0.1


def test_a_video_too_short_and_an_image_are_refused_with_a_reason():
    answer = load_reward("flicker").score([moving(1, count=2), plain("red")])
    assert answer.values.isnan().all()
    assert "2 frames, at least 3" in answer.remarks[0] and "scores videos only" in answer.remarks[1]


def test_subject_consistency_is_one_for_a_still_and_less_for_a_change_of_subject():
    other = Sample("x", Video([moving(0).video.frames[0], Image.new("RGB", (32, 16), "red")], 8.0))
    assert one("subject_consistency", moving(0)) == pytest.approx(1, abs=1e-5)
    assert one("subject_consistency", other) < 0.98


def test_frames_give_the_mean_or_the_worst_of_an_image_reward():
    video = Sample("x", Video([plain((200, 100, 100)).image, plain((200, 200, 200)).image], 2.0))
    assert one("frames", video, of=["saturation"]) == pytest.approx(0.25)
    assert one("frames", video, of=["saturation"], pool="min") == pytest.approx(0.0)
    assert one("frames", plain((200, 100, 100)), of=["saturation"], pool="min") == pytest.approx(0.5)


@pytest.mark.parametrize(
    "prompt, text",
    [
        ('a sign that says "Open now"', "Open now"),
        ("the word 'CAT' in snow", "CAT"),
        ("“A” and “B”", "A B"),
        ("it's a dog's life", None),
        ("a cat", None),
    ],
)
def test_quoted_text_of_a_prompt(prompt, text):
    assert quoted_text(prompt) == text


@pytest.mark.parametrize(
    "found, target, score",
    [
        ("hello world", "HelloWorld", 1.0),
        ("xx hello yy", "hello", 1.0),
        ("hallo", "hello", 0.8),
        ("", "hello", 0.0),
        ("something else entirely", "hello", 0.0),
    ],
)
def test_text_score_hand_numbers(found, target, score):
    assert text_score(found, target) == pytest.approx(score)


def test_ocr_reads_a_drawn_word():
    from PIL import ImageDraw, ImageFont

    image = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(image).text((20, 30), "Hello World", fill="black", font=ImageFont.load_default(48))
    answer = load_reward("ocr").score([Sample('a sign saying "Hello World"', image), Sample("a sign", image)])
    assert answer.values[0] == 1.0 and answer.values[1].isnan() and "quotes no text" in answer.remarks[1]


@pytest.mark.parametrize(
    "spec, word",
    [
        ({"kind": "jpeg", "quality": 0}, "quality"),
        ({"kind": "exposure", "target": 2}, "target"),
        ({"kind": "jpeg", "qualty": 3}, "quality"),
        ({"kind": "frames"}, "exactly one"),
        ({"kind": "frames", "of": ["saturation"], "pool": "max"}, "mean or min"),
    ],
)
def test_wrong_settings_name_what_is_allowed(spec, word):
    from visalign.errors import UserError

    with pytest.raises(UserError, match=word):
        load_reward(spec)
