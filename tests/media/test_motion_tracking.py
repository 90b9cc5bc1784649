"""Numbers of drawn motions, worked out by hand."""

import numpy as np
import pytest
from PIL import Image

from visalign.media.motion_tracking import components, motion_agreement, motion_of_video
from visalign.media.samples import Sample, Video
from visalign.rewards import load_reward


def square_video(places, side=10, size=50, ground="white"):
    frames = []
    for x, y in places:
        frame = Image.new("RGB", (size, size), ground)
        frame.paste("red", (x, y, x + side, y + side))
        frames.append(frame)
    return Video(frames, 8.0)


RIGHT = square_video([(5 + 4 * i, 20) for i in range(6)])


def test_the_way_of_a_square_in_sides_of_the_frame():
    found = components(RIGHT)  # 20 of 50 pixels, over 0.37
    assert found[0] == pytest.approx(0.4 / 0.37, rel=1e-6) and np.abs(found[[1, 2]]).max() < 1e-9
    down = components(square_video([(20, 5 + 4 * i) for i in range(6)], ground="navy"))
    assert down[1] == pytest.approx(0.4 / 0.37, rel=1e-6) and abs(down[0]) < 1e-9


def test_growth_is_the_log_of_the_ratio_of_sides():
    frames = [square_video([(25 - side // 2, 25 - side // 2)], side).frames[0] for side in (8, 12, 18, 27)]
    found = components(Video(frames, 8.0))
    assert found[2] == pytest.approx(np.log(27 / 8) / 0.95, rel=0.03)


def test_a_square_that_goes_away_and_comes_back_blinks_and_an_empty_video_does_nothing():
    seen, empty = square_video([(20, 20)]).frames[0], Image.new("RGB", (50, 50), "white")
    assert components(Video([seen, empty, empty, seen], 8.0))[5] == 1.0
    assert motion_of_video(Video([seen, empty, empty, seen], 8.0)) == "blink"
    assert components(Video([empty] * 4, 8.0)) is None and motion_of_video(Video([empty] * 4, 8.0)) is None


def test_agreement_counts_what_is_wanted_less_half_of_what_is_not():
    found = np.array([0.6, 0.8, 0, 0, 0, 0])
    assert motion_agreement(found, "right") == pytest.approx(0.6 - 0.4)
    assert motion_agreement(found, "left") == pytest.approx(-0.6 - 0.4)
    assert motion_agreement(np.array([3.0, 0, 0, 0, 0, 0]), "right") == 1.0  # going further is not better


def test_prompt_motion_scores_videos_by_the_words_of_their_prompts():
    reward = load_reward("prompt_motion")
    samples = [Sample("a square moves right", RIGHT), Sample("a square moving left", RIGHT), Sample("a square", RIGHT),
               Sample("a square jumps", Video([Image.new("RGB", (50, 50), "white")] * 4, 8.0)),
               Sample("it rises and grows", RIGHT)]
    answer = reward.score(samples)
    right, left, none, empty, two = answer.values[:, 0].tolist()
    assert right == pytest.approx(1.0) and left == -1.0 and none != none and empty == -1.0
    assert answer.remarks[2] == "the prompt names no motion" and two < 0
