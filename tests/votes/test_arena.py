"""The table that analyses of arenas read."""

import pyarrow.parquet as pq
import pytest

from tests.votes.test_book import fill
from visalign.data.rows import hashed_user
from visalign.errors import UserError
from visalign.votes import Vote, VoteDatabase, export_arena
from visalign.votes.anchors import obvious_of


def test_a_row_a_vote_with_the_left_model_first(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"))
    book.add(obvious_of(book.matchup("c0"), "x.png"))
    for matchup, voter, choice, left in (("c0", "ann", "a", "a"), ("c0", "bob", "a", "b"), ("c1", "ann", "tie", "b"),
                                         ("c2", "ann", "skip", "a"), ("anchor-obvious-c0", "ann", "a", "a")):
        book.vote(Vote(matchup, voter, choice, left, {"VQ": "b"} if matchup == "c0" else {}, 2.0, time=5.0))
    book.add_look("0a.png", {"luminance": 0.25})
    assert export_arena(book, tmp_path / "out" / "arena.parquet") == 3
    rows = pq.read_table(tmp_path / "out" / "arena.parquet").to_pylist()
    assert [(row["model_a"], row["model_b"], row["winner"], row["VQ"]) for row in rows] == [
        ("base", "aligned", "model_a", "model_b"), ("aligned", "base", "model_b", "model_a"),
        ("aligned", "base", "tie", None)]
    assert [row["judge"] for row in rows] == [hashed_user("ann"), hashed_user("bob"), hashed_user("ann")]
    assert [row["luminance_a"] for row in rows] == [0.25, None, None] and rows[1]["luminance_b"] == 0.25
    assert {(row["turn"], row["anony"], row["tstamp"], row["seconds"]) for row in rows} == {(1, True, 5.0, 2.0)}


def test_nothing_to_export_is_said(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"))
    with pytest.raises(UserError, match="no vote between two models yet"):
        export_arena(book, tmp_path / "arena.parquet")
