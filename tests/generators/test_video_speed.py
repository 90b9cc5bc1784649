"""At what speed a model of videos learns what it is shown."""

import pytest
from PIL import Image

from visalign import errors as notices
from visalign.config import ModelSettings
from visalign.generators import load_generator
from visalign.generators.shape import Shape
from visalign.generators.video_speed import how_wrong, say_speeds
from visalign.media.samples import Video

SHAPE = Shape(16, 16, 9, 8.0)  # one second


@pytest.fixture(autouse=True)
def _nothing_said_yet():
    notices.notice.cache_clear()


def test_speed_is_the_ratio_of_durations(pipelines):
    wan = load_generator(ModelSettings(source=str(pipelines("wan")), resolution=16, frames=9, fps=8), "cpu")
    frame = Image.new("RGB", (16, 16))
    assert wan.speed_of(Video([frame] * 9, 8.0)) == 1
    assert wan.speed_of(Video([frame] * 9, 1.0)) == 8  # eight seconds in one
    assert wan.speed_of(Video([frame] * 5, 8.0)) == 0.5
    assert wan.speed_of(Video([frame], 8.0)) == 0
    assert load_generator(ModelSettings(source=str(pipelines("sd3"))), "cpu").speed_of(frame) == 1


def test_twice_is_as_wrong_as_half():
    assert how_wrong(2.0) == pytest.approx(how_wrong(0.5)) and how_wrong(1.0) == 0 and how_wrong(0.0) > how_wrong(1e9)


@pytest.mark.parametrize("speeds, words", [
    ([8.0, 1.0, 2.0], ("2 of 3", "row 0, of 8 s", "8 times too fast", "8 frames a second")),
    ([0.25, 1.1], ("1 of 2", "4 times too slowly")),
    ([0.0], ("1 of 1", "stands still")),
])
def test_what_is_learnt_at_another_speed_is_said(capsys, speeds, words):
    assert say_speeds([(speed, f"row {i}") for i, speed in enumerate(speeds)], SHAPE) == int(words[0][0])
    said = capsys.readouterr().err
    assert all(word in said for word in words)


def test_a_little_faster_is_not_worth_a_word(capsys):
    assert say_speeds([(1.2, "a"), (0.85, "b")], SHAPE) == 0
    assert capsys.readouterr().err == ""
