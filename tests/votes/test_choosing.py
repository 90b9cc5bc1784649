"""Which matchup comes next."""

import pytest

from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase
from visalign.votes.anchors import OBVIOUS, obvious_of
from visalign.votes.choosing import models_by_information, next_matchup


@pytest.fixture
def book(tmp_path):
    """Three models, four matchups of every two."""
    book = VoteDatabase(tmp_path / "book")
    for a, b in (("x", "y"), ("x", "z"), ("y", "z")):
        for i in range(4):
            book.add(Matchup(f"p{i}", MatchupSide(a, i, "f.png"), MatchupSide(b, i, "g.png"), {}, f"{a}{b}{i}"))
    return book


def test_the_even_match_comes_before_the_foregone_one(book):
    for i in range(4):
        for voter in ("ann", "bob", "cem"):
            book.vote(Vote(f"xz{i}", voter, "a", "a"))  # x and y always beat z
            book.vote(Vote(f"yz{i}", voter, "a", "a"))
        book.vote(Vote(f"xy{i}", "ann", "ab"[i % 2], "a"))
    assert models_by_information(book, "new", (), None)[0] == frozenset("xy")
    first = next_matchup(book, "new")
    assert {first.a.model, first.b.model} == set("xy")
    assert next_matchup(book, "ann") is None  # has voted on all


def test_what_a_page_holds_is_not_dealt_again_and_counts_as_asked(book):
    held = []
    for _ in range(6):
        held.append(next_matchup(book, "new", held).id)
    assert len(set(held)) == 6 and {number[:2] for number in held} == {"xy", "xz", "yz"}


def test_two_models_are_dealt_as_before_and_others_are_left_out(book):
    assert models_by_information(book, "new", (), frozenset("xy")) == []
    assert {next_matchup(book, "new", (), frozenset("xy")).id[:2] for _ in range(5)} == {"xy"}
    assert next_matchup(book, "new", (), frozenset({"x", "other"})) is None


def test_anchors_are_dealt_in_their_share(book):
    book.add(obvious_of(book.matchup("xy0"), "spoilt.png"))
    assert [next_matchup(book, "new", anchors=0.5).id.startswith(OBVIOUS) for _ in range(2)] == [False, False]
    book.vote(Vote("xy1", "new", "a", "a"))
    assert next_matchup(book, "new", anchors=0.5).id == OBVIOUS + "xy0"
