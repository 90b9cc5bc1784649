"""The embedded clips: what their captions say is what they show."""

import random

import pytest

from visalign.data.clips import (
    FRAMES,
    MOTIONS,
    SIZE,
    THINGS,
    all_clip_captions,
    clip_captions,
    is_unseen,
    make_clip,
)
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.rewards.video_rules import motions_in
from visalign.tracking import motion_of_clip


@pytest.mark.parametrize("motion", MOTIONS)
def test_tracking_tells_every_motion_from_the_others(motion):
    found = [motion_of_clip(make_clip(thing, motion, random.Random(i))) for i, thing in enumerate(THINGS)]
    assert found.count(motions_in(f"x {motion}")[0]) >= 0.92 * len(THINGS)


def test_a_clip_is_known_by_its_caption_and_seed():
    one, same, other = (make_clip("fox", "bounces", random.Random(seed)) for seed in (3, 3, 4))
    assert [f.tobytes() for f in one.frames] == [f.tobytes() for f in same.frames]
    assert one.frames[0].tobytes() != other.frames[0].tobytes()
    assert len(one.frames) == FRAMES and one.frames[0].size == (SIZE, SIZE)


def test_splits_do_not_meet_and_unseen_pairs_are_held_out():
    train, held_out = clip_captions("train"), clip_captions("held_out")
    assert not set(train) & set(held_out) and len(held_out) > 80
    unseen = [f"{thing} {motion}" for thing in THINGS for motion in MOTIONS if is_unseen(thing, motion)]
    assert 15 < len(unseen) < 50 and set(unseen) <= set(held_out)
    assert {*train, *held_out} <= set(all_clip_captions())
    assert read_prompts("clips:held_out", 5) == held_out[:5]
    with pytest.raises(UserError, match="splits train and held_out"):
        read_prompts("clips:test")
