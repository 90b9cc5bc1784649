"""No vote is lost, none counts twice."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from visalign.errors import UserError
from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase


def fill(book, count=4, models=("base", "aligned")):
    for i in range(count):
        book.add(Matchup(f"prompt {i}", MatchupSide(models[0], i, f"{i}a.png"), MatchupSide(models[1], i, f"{i}b.png"),
                         {"steps": 4}, f"c{i}"))
    return book


@pytest.fixture
def book(tmp_path):
    return fill(VoteDatabase(tmp_path / "book"))


def test_what_is_written_is_read_back(book):
    vote = Vote("c1", "ann", "b", "a", {"quality": "tie"}, 2.5)
    assert book.vote(vote)
    again = VoteDatabase(book.folder)
    assert again.votes() == [vote]
    assert again.matchup("c2").a == MatchupSide("base", 2, "2a.png") and again.matchup("c2").settings == {"steps": 4}
    assert again.progress("ann") == (1, 4) and again.progress("bob") == (0, 4)


def test_neither_a_ballot_nor_a_voter_counts_twice(book):
    vote = Vote("c1", "ann", "a", "a")
    assert book.vote(vote) and not book.vote(vote)
    assert not book.vote(Vote("c1", "ann", "b", "a"))
    assert book.vote(Vote("c1", "bob", "b", "a"))
    assert [v.choice for v in book.votes()] == ["a", "b"]


def test_an_undone_vote_may_be_given_anew_but_its_ballot_is_spent(book):
    first = Vote("c1", "ann", "a", "a")
    book.vote(first)
    book.vote(Vote("c2", "ann", "tie", "b"))
    assert book.undo("ann").matchup == "c2" and book.undo("ann").matchup == "c1" and book.undo("ann") is None
    assert book.votes() == [] and not book.vote(first)
    assert book.vote(Vote("c1", "ann", "b", "a")) and [v.choice for v in book.votes()] == ["b"]
    with sqlite3.connect(book.file) as raw:
        assert raw.execute("SELECT COUNT(*) FROM votes").fetchone() == (3,)


def test_a_ballot_outlives_the_server_and_hides_its_sides(book):
    matchup = book.matchup("c1")
    ballots = [book.show(matchup, "ann") for _ in range(40)]
    assert {ballot.on_left for ballot in ballots} == {"a", "b"} and len({ballot.id for ballot in ballots}) == 40
    for ballot in ballots:
        again = VoteDatabase(book.folder).ballot(ballot.id)
        assert again == ballot and again.sides[0] == getattr(matchup, again.on_left)
        assert again.choice("left") == again.on_left != again.choice("right") and again.choice("tie") == "tie"
    assert book.ballot("of another book") is None


def test_the_matchups_with_fewest_votes_come_first_and_none_twice(book):
    for voter, matchup in (("ann", "c0"), ("ann", "c1"), ("bob", "c0")):
        book.vote(Vote(matchup, voter, "a", "a"))
    assert {c.id for c in book.open_for("cid", 2)} == {"c2", "c3"}
    assert [c.id for c in book.open_for("cid", 9)][2:] == ["c1", "c0"]
    assert {c.id for c in book.open_for("ann", 9)} == {"c2", "c3"}
    assert {c.id for c in book.open_for("ann", 9, but=("c2",))} == {"c3"}
    assert book.open_for("ann", 9, between=frozenset({"base", "other"})) == []


@pytest.mark.parametrize("vote, said", [
    (Vote("c1", "ann", "left", "a"), "choice is 'left' \\(allowed: a, b, tie, skip\\)"),
    (Vote("c1", "ann", "a", "a", {"quality": "x"}), "quality is 'x'"),
    (Vote("c9", "ann", "a", "a"), "there is no matchup c9")])
def test_wrong_votes_are_refused(book, vote, said):
    with pytest.raises(UserError, match=said):
        book.vote(vote)
    assert book.votes() == []


def test_another_kind_of_file_is_named(tmp_path):
    (tmp_path / "votes.sqlite").write_text("not a database, but long enough to be taken for one" * 40)
    with pytest.raises(UserError, match="votes.sqlite: cannot be used as a vote database"):
        VoteDatabase(tmp_path)


def test_many_voters_at_once_lose_nothing(tmp_path):
    book = fill(VoteDatabase(tmp_path), 30)

    def all_of(voter):
        return sum(book.vote(Vote(c.id, voter, "a", "a")) for c in book.open_for(voter, 30) for _ in range(2))

    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(all_of, [f"voter {i}" for i in range(8)]))
    assert given == [30] * 8 and len(book.votes()) == 240


def test_a_killed_writer_has_kept_every_vote_it_reported(tmp_path):
    fill(VoteDatabase(tmp_path), 2000)
    code = ("import sys\nfrom visalign.votes import Vote, VoteDatabase\nbook = VoteDatabase(sys.argv[1])\n"
            "for i in range(2000):\n    book.vote(Vote(f'c{i}', 'ann', 'a', 'a'))\n    print(i, flush=True)\n")
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(50):
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in writer.stdout.read().splitlines() if line.strip())])
    writer.wait()
    kept = {vote.matchup for vote in VoteDatabase(tmp_path).votes()}
    assert {f"c{i}" for i in range(last + 1)} <= kept
