"""Diversity of motion within a prompt."""

import math

import numpy as np
import pytest
from PIL import Image

from tests.media.test_motion_tracking import RIGHT, square_video
from visalign.evaluators.motion import motion_diversity, motion_of
from visalign.media.samples import Sample, Video

FROZEN = Video(RIGHT.frames[:1] * 6, 8.0)
DOWN = square_video([(20, 5 + 4 * i) for i in range(6)])


def of(*videos):
    return motion_diversity([Sample("x", video) for video in videos])


def test_one_motion_over_and_over_has_no_diversity_and_two_have_some():
    assert of(RIGHT, RIGHT) == pytest.approx(0, abs=1e-9) and of(FROZEN, FROZEN) == pytest.approx(0, abs=1e-9)
    assert of(RIGHT, FROZEN) == pytest.approx(1) and 0.2 < of(RIGHT, DOWN) < 1
    assert of(RIGHT, RIGHT, DOWN) == pytest.approx(2 / 3 * of(RIGHT, DOWN))


def test_colours_do_not_matter_and_images_have_no_motion():
    blue = Video([Image.fromarray(255 - np.asarray(frame)) for frame in RIGHT.frames], 8.0)
    assert of(RIGHT, blue) == pytest.approx(0, abs=1e-3)
    assert math.isnan(motion_diversity([Sample("x", RIGHT.frames[0])] * 2)) and math.isnan(of(RIGHT))
    assert np.linalg.norm(motion_of(Sample("x", Video(RIGHT.frames[:2], 8.0)))) == pytest.approx(1)
