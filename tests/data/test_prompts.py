"""Prompt sets."""

import pytest

from visalign.data.prompts import read_prompts
from visalign.errors import UserError


def test_train_and_held_out_captions_are_disjoint():
    train, held_out = set(read_prompts("emoji:train")), set(read_prompts("emoji:held_out"))
    assert len(train) > 150 and len(held_out) > 80
    assert not train & held_out


def test_text_file_and_limit(tmp_path):
    (tmp_path / "p.txt").write_text("a cat\n\n a dog \n")
    assert read_prompts(str(tmp_path / "p.txt")) == ["a cat", "a dog"]
    assert read_prompts(str(tmp_path / "p.txt"), 1) == ["a cat"]


def test_missing_empty_and_unknown_are_named(tmp_path):
    (tmp_path / "p.txt").write_text("\n")
    for source, word in ((str(tmp_path / "p.txt"), "no prompt"), ("nowhere.txt", "nowhere"), ("emoji:all", "held_out")):
        with pytest.raises(UserError, match=word):
            read_prompts(source)
