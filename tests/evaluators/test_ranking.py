"""Win rates and ladders by hand."""

import numpy as np
import pytest

from visalign.evaluators.ranking import elo, elo_of_votes, expanded, win_rate, wins_of
from visalign.evaluators.statistics import relative_change, sign_test


def test_three_wins_in_four_are_191_elo():
    first = np.tile([1.0, 1.0, 1.0, 0.0], (30, 1))
    second = 0.5 * np.ones_like(first)
    ladder = elo(wins_of([first, second]), ["a", "b"])
    assert ladder["a"].value - ladder["b"].value == pytest.approx(190.85, abs=0.01)
    assert ladder["a"].value + ladder["b"].value == pytest.approx(2000)
    assert win_rate(first, second).share.value == 0.75


def test_ties_count_half_and_unscored_pairs_not_at_all():
    first, second = np.array([[1.0, 2.0], [3.0, np.nan]]), np.array([[1.0, 1.0], [4.0, 0.0]])
    rate = win_rate(first, second)
    assert rate.share.value == pytest.approx(0.5) and rate.pairs == 3
    assert wins_of([first, second])[:, 0, 1].tolist() == [1.5, 0.0]
    assert win_rate(np.full((1, 1), np.nan), np.ones((1, 1))) is None


def test_a_ladder_of_three_follows_the_odds():
    # strengths 4 : 2 : 1 give these expected shares exactly
    wins = np.zeros((20, 3, 3))
    for i, a in enumerate((4, 2, 1)):
        for j, b in enumerate((4, 2, 1)):
            if i != j:
                wins[:, i, j] = a / (a + b)
    ladder = elo(wins, ["a", "b", "c"])
    assert ladder["a"].value - ladder["b"].value == pytest.approx(400 * np.log10(2), abs=0.01)
    assert ladder["b"].value - ladder["c"].value == pytest.approx(400 * np.log10(2), abs=0.01)
    assert ladder["a"].low == pytest.approx(ladder["a"].value)  # every prompt says the same


def test_a_graph_that_falls_apart_is_named():
    better, worse = np.ones((5, 2)), np.zeros((5, 2))
    with pytest.raises(ValueError, match="no ranking.*a, b; c|no ranking.*c; a, b"):
        elo(wins_of([better, better, worse]), ["a", "b", "c"])


def test_an_almost_one_sided_ladder_is_found_and_is_uncertain():
    first, second = np.ones((100, 4)), np.zeros((100, 4))
    second[0, 0] = 2.0
    ladder = elo(wins_of([first, second]), ["a", "b"])
    assert ladder["a"].value - ladder["b"].value == pytest.approx(400 * np.log10(399), abs=0.1)
    assert ladder["a"].high > ladder["a"].value + 100


def test_intervals_of_the_ladder_shrink_with_prompts():
    rng = np.random.default_rng(0)
    few, many = (elo(wins_of([rng.random((n, 4)), rng.random((n, 4))]), ["a", "b"]) for n in (8, 200))
    assert many["a"].high - many["a"].low < few["a"].high - few["a"].low


def test_a_ladder_of_votes_counts_ties_half_and_resamples_whom_there_are():
    sides = np.array([[0, 1], [1, 0], [0, 1], [0, 1]])
    won = np.array([1.0, 0.5, 1.0, 0.0])  # 2.5 of 4 for the first
    one = elo_of_votes(sides, won, np.arange(4), np.zeros(4, int), ["a", "b"])
    assert one["a"].value - one["b"].value == pytest.approx(400 * np.log10(2.5 / 1.5), abs=0.01)
    wins = np.zeros((4, 2, 2))
    for p, ((i, j), w) in enumerate(zip(sides, won, strict=True)):
        wins[p, i, j], wins[p, j, i] = w, 1 - w
    plain = elo(wins, ["a", "b"])  # one voter: a bootstrap over prompts, with the same draws, read further out
    assert one["a"].value == plain["a"].value and one["a"].low <= plain["a"].low and one["a"].high >= plain["a"].high
    assert elo_of_votes(sides, won, np.zeros(4, int), np.arange(4), ["a", "b"])["a"].high == np.inf
    many = np.repeat(np.arange(4), 25)
    alike = [elo_of_votes(sides[many], won[many], np.arange(100), voters, ["a", "b"])["a"]
             for voters in (np.zeros(100, int), many)]  # four people, who repeat themselves on new prompts
    assert alike[1].high - alike[1].low > 2 * (alike[0].high - alike[0].low)


def test_a_bootstrap_of_few_is_read_as_far_out_as_student_s_t():
    # 10: sqrt(10 / 9) x 2.262157 = 2.384525, and 2 Phi(2.384525) - 1 = 0.982899
    assert expanded(10) == pytest.approx(0.982899, abs=1e-6)
    assert expanded(1) == 1 and expanded(10**6) == pytest.approx(0.95, abs=1e-5)


def test_the_sign_test_by_hand():
    assert sign_test([1, 1, 1, 1, 1, 0, 0]) == pytest.approx(2 * 0.5**5)
    assert sign_test([0.0, 0.0]) == 1.0


def test_relative_change_pairs_prompts():
    before = np.array([1.0, 2.0, 3.0])
    assert relative_change(before, 0.8 * before) == pytest.approx((-0.2, -0.2, -0.2))
    assert relative_change(np.zeros(3), before).high == float("inf")
    mixed = relative_change(before, before + np.array([0.5, -0.5, 0.0]))
    assert mixed.value == pytest.approx(0) and mixed.low < 0 < mixed.high
