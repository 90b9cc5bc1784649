"""The embedded videos: what their captions say is what they show."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from visalign.config import DataSettings
from visalign.data.embedded_videos import (
    DRAWN_MOTIONS,
    FRAMES,
    SIZE,
    THINGS,
    all_video_captions,
    is_unseen,
    make_video,
    video_captions,
)
from visalign.data.generations import find_generations
from visalign.data.preferences import read_pairs
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.media.motion_tracking import motion_of_video
from visalign.rewards.video_rules import motions_in


@pytest.mark.parametrize("motion", DRAWN_MOTIONS)
def test_tracking_tells_every_motion_from_the_others(motion):
    found = [motion_of_video(make_video(thing, motion, random.Random(i))) for i, thing in enumerate(THINGS)]
    assert found.count(motions_in(f"x {motion}")[0]) >= 0.92 * len(THINGS)


def test_a_video_is_known_by_its_caption_and_seed():
    one, same, other = (make_video("frog", "bounces", random.Random(seed)) for seed in (3, 3, 4))
    assert [f.tobytes() for f in one.frames] == [f.tobytes() for f in same.frames]
    assert one.frames[0].tobytes() != other.frames[0].tobytes()
    assert len(one.frames) == FRAMES and one.frames[0].size == (SIZE, SIZE)


def test_splits_do_not_meet_and_unseen_pairs_are_held_out():
    train, held_out = video_captions("train"), video_captions("held_out")
    assert not set(train) & set(held_out) and len(held_out) > 50
    unseen = [f"{thing} {motion}" for thing in THINGS for motion in DRAWN_MOTIONS if is_unseen(thing, motion)]
    assert 8 < len(unseen) < 30 and set(unseen) <= set(held_out)
    assert {*train, *held_out} <= set(all_video_captions())
    assert read_prompts("videos:held_out", 5) == held_out[:5]
    with pytest.raises(UserError, match="splits train and held_out"):
        read_prompts("videos:test")


def test_the_script_s_comparisons_are_read_with_weights_and_its_clips_with_captions(tmp_path):
    script = Path(__file__).resolve().parents[2] / "scripts" / "build_video_data.py"
    subprocess.run([sys.executable, script, tmp_path / "videos", "--train", "24", "--held-out", "6"], check=True,
                   capture_output=True, timeout=120)
    pairs = list(read_pairs(DataSettings(path=str(tmp_path / "videos" / "train.csv"), dimensions={"VQ": 1, "MQ": 1,
                                                                                                 "TA": 2})))
    assert len(pairs) == 24 and all(len(video.frames) == FRAMES for video in pairs[0].media())
    right = {entry.file.name for entry in find_generations(tmp_path / "videos")}
    assert all(Path(pair.chosen).name in right and Path(pair.rejected).name not in right for pair in pairs)
    held_out = {pair.prompt for pair in read_pairs(DataSettings(path=str(tmp_path / "videos" / "held_out.csv")))}
    assert held_out <= set(video_captions("held_out")) and not held_out & {pair.prompt for pair in pairs}
