"""Edits that come with visalign: two splits that share no source, and pairs of what was asked for and what was not."""

import io
import itertools

import pytest
from PIL import Image

from visalign.config import DataSettings
from visalign.data import read_pairs, read_prompts
from visalign.data.embedded_edits import UNSEEN_EDITS, edit_pair_rows
from visalign.errors import UserError
from visalign.media.emoji_edits import EDITS, score_edit
from visalign.media.source_images import split_prompt


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))


def test_splits_share_no_source_and_only_one_has_the_unseen_instructions():
    words, sources = {}, {}
    for split in ("train", "held_out"):
        both = [split_prompt(prompt) for prompt in read_prompts(f"emoji-edits:{split}")]
        words[split], sources[split] = {each for each, _ in both}, {files for _, files in both}
    assert words["held_out"] == set(EDITS) and words["train"] == set(EDITS) - set(UNSEEN_EDITS)
    assert len(sources["train"]) > 100 and sources["train"].isdisjoint(sources["held_out"])
    assert all(file.is_file() for files in sources["train"] for file in files)
    with pytest.raises(UserError, match="train and held_out"):
        read_prompts("emoji-edits:test")


def test_the_chosen_one_is_what_was_asked_for():
    rows = list(itertools.islice(edit_pair_rows(), 40))
    assert list(itertools.islice(edit_pair_rows(), 3)) == rows[:3]
    for _, row in rows:
        source, chosen, rejected = (Image.open(io.BytesIO(row[name])) for name in ("source", "chosen", "rejected"))
        right, wrong = (score_edit(row["prompt"], source, image).product for image in (chosen, rejected))
        assert right == 1 and wrong < 0.8


def test_pairs_name_their_source():
    pair = next(read_pairs(DataSettings(path="emoji-edits:pairs")))
    assert len(pair.sources) == 1 and pair.prompt in EDITS
