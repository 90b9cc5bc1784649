"""Votes by seed: what is read, what is left out, what is refused."""

import pytest

from visalign.data.seed_preferences import SeedPreference, read_seed_preferences
from visalign.errors import UserError


def table(tmp_path, text):
    (tmp_path / "votes.csv").write_text("prompt,a_seed,b_seed,choice,a,b\n" + text)
    return str(tmp_path / "votes.csv")


def test_the_preferred_seed_comes_first_and_ties_are_left_out(tmp_path):
    path = table(tmp_path, "a fruit,4,5,a,x,y\na fruit,6,7,B,x,y\na cat,8,9,tie,x,y\na cat,1,2,,x,y\n")
    assert read_seed_preferences(path) == [SeedPreference("a fruit", 4, 5), SeedPreference("a fruit", 7, 6)]


@pytest.mark.parametrize("row, message", [
    ("a fruit,4,5,left,x,y\n", "line 2: choice is 'left'; allowed are a, b, tie"),
    ("a fruit,four,5,a,x,y\n", "line 2: a_seed and b_seed must be whole numbers"),
    ("a fruit,4,,a,x,y\n", "line 2: column b_seed is missing"), ("a fruit,4,5,,x,y\n", "no row has a choice")])
def test_what_cannot_be_used_is_named(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        read_seed_preferences(table(tmp_path, row))
