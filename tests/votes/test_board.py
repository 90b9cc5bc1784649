"""Counting votes: numbers worked out by hand, and identities."""

import numpy as np
import pytest
from torchmetrics.functional.classification import multiclass_cohen_kappa

from tests.votes.test_book import fill
from visalign.evaluators.ranking import ELO
from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase, leaderboard
from visalign.votes.board import cohen_kappa, kappa_of


def test_kappa_of_a_table_worked_out_by_hand():
    # po = 35/50 = 0.7; margins 25, 25 and 30, 20: pe = 0.5 * 0.6 + 0.5 * 0.4 = 0.5; kappa = 0.2 / 0.5
    kappa, agree = cohen_kappa(np.array([[[20, 5, 0], [10, 15, 0], [0, 0, 0]]]))
    assert agree[0] == pytest.approx(0.7) and kappa[0] == pytest.approx(0.4)


def test_kappa_is_torchmetrics_own():
    import torch

    generator = torch.Generator().manual_seed(1)
    a, b = torch.randint(0, 3, (2, 60), generator=generator)
    letters = ["a", "tie", "b"]
    mine = kappa_of("x", "y", [letters[i] for i in a], [letters[i] for i in b])
    assert mine.kappa.value == pytest.approx(multiclass_cohen_kappa(a, b, 3).item(), abs=1e-6)
    assert mine.kappa.low < mine.kappa.value < mine.kappa.high and mine.matchups == 60


def test_agreement_of_the_like_minded_and_of_opposites():
    sides = ["a", "b"] * 10
    assert kappa_of("x", "y", sides, sides).kappa.value == 1
    assert kappa_of("x", "y", sides, sides[::-1]).kappa.value == -1
    assert np.isnan(kappa_of("x", "y", ["a"] * 8, ["a"] * 8).kappa.value)


def test_three_wins_of_four_are_odds_of_three(tmp_path):
    book = fill(VoteDatabase(tmp_path), 4)
    for i, choice in enumerate(("b", "b", "b", "a")):
        book.vote(Vote(f"c{i}", "ann", choice, "a"))
    board = leaderboard(book)
    assert board.models == ["aligned", "base"] and board.votes == 4
    assert board.wins.tolist() == [[0, 3], [1, 0]]
    gap = board.elo["aligned"].value - board.elo["base"].value
    assert gap == pytest.approx(ELO * np.log(3), rel=1e-4)
    assert board.left.value == 0.25


def test_ties_count_half_to_each_and_skips_not_at_all(tmp_path):
    book = fill(VoteDatabase(tmp_path), 4)
    for i, choice in enumerate(("b", "tie", "tie", "skip")):
        book.vote(Vote(f"c{i}", "ann", choice, "a"))
    board = leaderboard(book)
    assert board.votes == 3 and board.wins.tolist() == [[0, 2], [1, 0]] and board.ties[0, 1] == 2


def test_a_clean_sweep_has_no_finite_ranking_and_says_so(tmp_path):
    book = fill(VoteDatabase(tmp_path), 3)
    for i in range(3):
        book.vote(Vote(f"c{i}", "ann", "b", "b"))
    board = leaderboard(book)
    assert board.elo is None and "one side won every comparison" in board.no_ranking
    assert board.models == ["aligned", "base"]


def test_dimensions_are_counted_apart(tmp_path):
    book = fill(VoteDatabase(tmp_path), 2)
    book.vote(Vote("c0", "ann", "b", "a", {"VQ": "a"}))
    book.vote(Vote("c1", "ann", "skip", "a", {"VQ": "a"}))
    assert leaderboard(book).wins.sum() == 1
    board = leaderboard(book, "VQ")
    assert board.models == ["base", "aligned"] and board.wins[0, 1] == 2


def test_an_empty_book_has_a_board(tmp_path):
    board = leaderboard(VoteDatabase(tmp_path))
    assert board.votes == 0 and board.models == [] and board.no_ranking == "there is no vote between two models yet"


def test_voters_and_rewards_are_compared_on_what_they_share(tmp_path):
    book = fill(VoteDatabase(tmp_path), 12)
    for i in range(12):
        choice = "ab"[i % 2]
        book.vote(Vote(f"c{i}", "ann", choice, "a"))
        book.vote(Vote(f"c{i}", "bob", choice if i < 9 else "tie", "a"))
    book.add_scores("reward", {f"{i}{side}.png": float((side == "a") == (i % 2 == 0)) for i in range(12)
                             for side in "ab"})
    board = leaderboard(book)
    [voters] = board.between_voters
    assert (voters.first, voters.second, voters.matchups, voters.agree) == ("ann", "bob", 12, 0.75)
    assert {(k.first, k.second): (k.kappa.value, k.matchups) for k in board.with_rewards} == {
        ("ann", "reward"): (1.0, 12), ("bob", "reward"): (1.0, 9)}


def test_a_model_against_itself_is_no_comparison(tmp_path):
    book = VoteDatabase(tmp_path)
    book.add(Matchup("p", MatchupSide("base", 1, "x.png"), MatchupSide("base", 2, "y.png"), {}, "c0"))
    book.vote(Vote("c0", "ann", "a", "a"))
    board = leaderboard(book)
    assert board.models == [] and board.votes == 1


def test_who_is_ahead_may_be_looked_at_at_any_time(tmp_path):
    book = fill(VoteDatabase(tmp_path), 40)
    for i in range(40):
        book.vote(Vote(f"c{i}", "ann", "b", "a"))
        book.vote(Vote(f"c{i}", "ben", "a", "a"))  # the same two samples once more
    [duel] = leaderboard(book).duels
    assert {duel.first, duel.second} == {"aligned", "base"} and duel.matchups == 40 and duel.decided
    share = duel.share if duel.first == "aligned" else -duel.share
    assert abs(share.value) in (0, 1) and ("wins" in duel.in_words() or "loses" in duel.in_words())
    few = fill(VoteDatabase(tmp_path / "few"), 3)
    few.vote(Vote("c0", "ann", "b", "a"))
    few.vote(Vote("c1", "ann", "tie", "a"))
    [duel] = leaderboard(few).duels
    assert duel.share.value == 0.75 and not duel.decided and "is not clearly ahead" in duel.in_words()
