"""Changes whose effect is known: they change, by as much as they should, the same way for a seed, and keep the size."""

import random

import numpy as np
import pytest
from PIL import Image

from visalign.config.augment import ASPECTS
from visalign.media.answers import Answer
from visalign.media.changes import IMAGE_CHANGES, VIDEO_CHANGES, MediaChange, moves, shuffled_frames
from visalign.media.samples import Video


@pytest.fixture
def image():
    """A disc on a gradient, 48 x 40."""
    y, x = np.mgrid[:40, :48]
    pixels = np.stack([x * 5, y * 6, 255 - x * 4], -1)
    pixels[(x - 24) ** 2 + (y - 20) ** 2 < 100] = (220, 40, 40)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def video(*shades):
    return Video([Image.new("RGB", (8, 8), (shade,) * 3) for shade in shades], 4.0)


def difference(one, other):
    return np.sqrt(np.square(np.asarray(one, float) - np.asarray(other, float)).mean()) / 255


def test_there_is_a_change_for_every_name_that_a_recipe_may_give():
    of_media = {name for name, aspect in ASPECTS.items() if aspect != "alignment"} | {"reencode", "crop", "resize"}
    assert IMAGE_CHANGES.keys() | VIDEO_CHANGES.keys() == of_media
    assert {name for name, aspect in ASPECTS.items() if aspect == "motion"} == VIDEO_CHANGES.keys()


@pytest.mark.parametrize("name", sorted(IMAGE_CHANGES))
def test_an_image_changes_with_its_seed_and_keeps_its_size(image, name):
    once, again = (MediaChange(name, 7)(image) for _ in range(2))
    assert once.size == image.size and once.mode == "RGB"
    assert np.array_equal(once, again)
    changed = difference(once, image)
    assert changed > 0
    if name in ASPECTS:
        others = [np.asarray(MediaChange(name, seed)(image)) for seed in (8, 9)]
        assert name == "jpeg" or not np.array_equal(*others)
        assert changed > 0.02


def test_a_bad_jpeg_is_further_from_the_image_than_a_good_one(image):
    bad, good = (difference(MediaChange(name, 0)(image), image) for name in ("jpeg", "reencode"))
    assert bad > 1.5 * good


def test_a_hole_is_one_flat_rectangle_of_the_shade_that_differs_most():
    for colour, shade in (("white", 0), ("black", 255)):
        image = Image.new("RGB", (50, 50), colour)
        hole = np.asarray(MediaChange("hole", 3)(image)) != np.asarray(image)
        rows, columns = np.where(hole.any(-1))
        assert hole.all(-1)[rows.min():rows.max() + 1, columns.min():columns.max() + 1].all()
        assert 0.04 <= hole.mean() <= 0.25
        assert set(np.asarray(MediaChange("hole", 3)(image))[hole]) == {shade}


def test_stretching_makes_a_disc_an_ellipse():
    disc = Image.fromarray((255 * (np.hypot(*(np.mgrid[:64, :64] - 31.5)) > 14)).astype(np.uint8)).convert("RGB")
    dark = np.asarray(MediaChange("stretch", 1)(disc))[..., 0] < 128
    sides = sorted((np.ptp(np.where(dark)[0]) + 1, np.ptp(np.where(dark)[1]) + 1))
    assert sides[0] == pytest.approx(28, abs=1) and 1.3 < sides[1] / sides[0] < 1.75


def test_frames_change_alike_and_keep_their_rate(image):
    changed = MediaChange("noise", 5)(Video([image, image], 8.0))
    assert changed.fps == 8 and np.array_equal(*changed.frames)
    assert not np.array_equal(changed.frames[0], image)


def test_a_shuffled_video_has_its_frames_in_neither_order_and_a_frozen_one_has_one_of_them():
    shades = [0, 50, 100, 150]
    for seed in range(20):
        order = [frame.getpixel((0, 0))[0] for frame in MediaChange("shuffle", seed)(video(*shades)).frames]
        assert sorted(order) == shades and order not in (shades, shades[::-1])
    frozen = [frame.getpixel((0, 0))[0] for frame in MediaChange("freeze", 1)(video(*shades)).frames]
    assert len(set(frozen)) == 1 and len(frozen) == 4 and frozen[0] in shades
    assert len(shuffled_frames(video(0, 9, 99), random.Random(0)).frames) == 3


def test_what_moves_is_a_video_of_three_frames_that_differ(image):
    assert moves(video(0, 0, 6)) and not moves(video(0, 0, 5))  # 6 / 255 = 0.0235
    assert not moves(video(0, 200)) and not moves(image)


@pytest.mark.parametrize("name, media", [("freeze", Image.new("RGB", (8, 8))), ("blur", Answer("words"))])
def test_a_medium_that_has_no_such_change(name, media):
    with pytest.raises(ValueError, match=f"the change {name} is not for"):
        MediaChange(name, 0)(media)
