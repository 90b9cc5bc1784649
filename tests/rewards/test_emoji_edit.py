"""The embedded reward of an edit reads the instruction, the source and the result."""

import pytest
from PIL import Image

from visalign.media.emoji_edits import apply_edit
from visalign.media.samples import Sample
from visalign.rewards import load_reward

SOURCE = Image.new("RGB", (64, 64), "white")
SOURCE.paste("orange", (8, 16, 32, 56))
GREY = SOURCE.convert("L").convert("RGB")


def test_score_is_what_was_done_times_what_was_kept():
    half = Image.blend(SOURCE, apply_edit("mirror it", SOURCE), 0.5)
    reward = load_reward("tiny-edit")
    values = reward.score([Sample("mirror it", image, sources=(SOURCE,)) for image in (half, SOURCE)]).values
    assert reward.dimensions == ("score", "done", "kept")
    assert values[0].tolist() == pytest.approx([0.5, 0.5, 1.0], abs=0.02) and values[1, 0] == 0


def test_what_it_cannot_measure_gets_no_value():
    answer = load_reward("tiny-edit").score([
        Sample("mirror it", SOURCE), Sample("make it dance", SOURCE, sources=(SOURCE,)),
        Sample("make it grey", GREY, sources=(GREY,))])
    assert answer.values.isnan().all()
    assert "no source" in answer.remarks[0] and "embedded edits" in answer.remarks[1] and answer.remarks[2]
