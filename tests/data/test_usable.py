"""Rows that cannot be used: named before anything is loaded, or left out, counted and bounded."""

import json

import pytest

from visalign.config import DataSettings
from visalign.data.usable import BrokenRows, check_pair_sources
from visalign.errors import UserError


@pytest.fixture
def with_broken(pairs_file):
    """Six good pairs, then an image cut off within its head (line 7) and a missing one (line 8)."""
    (pairs_file.parent / "half.png").write_bytes((pairs_file.parent / "red-chosen.png").read_bytes()[:20])
    with pairs_file.open("a") as file:
        for name in ("half.png", "gone.png"):
            file.write(json.dumps({"prompt": name, "chosen": name, "rejected": "red-chosen.png"}) + "\n")
    return str(pairs_file)


def test_the_first_broken_row_ends_it_and_says_how_to_go_on(with_broken):
    with pytest.raises(UserError, match="line 7: .*half.png.*data.on_error=skip"):
        check_pair_sources(DataSettings(path=with_broken))


def test_skipped_rows_leave_the_others_and_are_listed(with_broken, tmp_path):
    settings = DataSettings(path=with_broken, on_error="skip", max_skipped=0.25)
    assert len(check_pair_sources(settings).prompts) == 6
    broken = BrokenRows(settings)
    broken.note(UserError("pairs.jsonl line 7: cut off"))
    broken.note(UserError("pairs.jsonl line 7: cut off"))
    broken.write(tmp_path / "skipped.jsonl")
    assert (tmp_path / "skipped.jsonl").read_text() == '{"reason": "pairs.jsonl line 7: cut off"}\n'


def test_more_than_the_allowed_share_ends_it(with_broken):
    with pytest.raises(UserError, match=r"2 of 8 rows .* 0.2 of data.max_skipped; the first is .*line 7"):
        check_pair_sources(DataSettings(path=with_broken, on_error="skip", max_skipped=0.2))


def test_nothing_skipped_leaves_no_list(tmp_path):
    BrokenRows(DataSettings(path="x")).write(tmp_path / "skipped.jsonl")
    assert not (tmp_path / "skipped.jsonl").exists()


def test_one_image_twice_teaches_nothing_unless_only_the_chosen_one_counts(tmp_path, pairs_file):
    rows = [{"prompt": "x", "chosen": "red-chosen.png", "rejected": "red-chosen.png"}] * 2
    pairs_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="same image in all 2 pairs"):
        check_pair_sources(DataSettings(path=str(pairs_file)))
    assert check_pair_sources(DataSettings(path=str(pairs_file)), compared=False).prompts == ["x"]
