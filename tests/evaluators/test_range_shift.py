"""The distance between two models' scores: by hand, its ends, what chance gives, and what is left out."""

import numpy as np
import pytest
import scipy

from visalign.evaluators.range_shift import range_shift


def test_distance_and_share_outside_by_hand():
    """(0, 1, 2, 3) and (2, 3, 4, 5): below 2 lies half of the first and none of the second; 4 and 5 lie beyond 3."""
    found = range_shift(np.array([[0., 1], [2, 3]]), np.array([[2., 3], [4, 5]]))
    assert found.distance == pytest.approx(0.5) and found.outside == pytest.approx(0.5)


def test_the_same_scores_are_0_apart_and_disjoint_ones_1():
    scores = np.random.default_rng(0).normal(size=(20, 3))
    assert range_shift(scores, scores) == (0, pytest.approx(0), 0)
    assert range_shift(scores, scores + 100)[::2] == (1, 1)


def test_the_distance_is_scipy_s_ties_included():
    rng = np.random.default_rng(0)
    base, model = rng.integers(0, 6, (9, 5)), rng.integers(1, 7, (9, 5))
    assert range_shift(base, model).distance == pytest.approx(
        scipy.stats.ks_2samp(base.ravel(), model.ravel()).statistic)


def test_a_rising_map_of_the_scores_changes_nothing():
    rng = np.random.default_rng(0)
    base, model = rng.normal(size=(20, 3)), rng.normal(0.4, 1, (20, 3))
    assert range_shift(np.exp(base), np.exp(model)) == pytest.approx(range_shift(base, model))


def test_chance_is_passed_by_one_in_twenty_of_models_alike_and_by_those_that_moved():
    """200 pairs of alike models, whose prompts differ more than their samples: 5 % of them, 1 to 9 % by chance."""
    passed = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        of_prompts = rng.normal(size=(12, 1))
        base, model = (of_prompts + 0.3 * rng.normal(size=(12, 4)) for _ in range(2))
        found = range_shift(base, model, seed, swaps=100)
        passed.append(found.distance > found.chance)
    assert 0.005 <= np.mean(passed) <= 0.09
    moved = range_shift(base, base + 1.5)
    assert moved.distance > moved.chance


def test_what_has_no_score_is_left_out():
    nan = float("nan")
    base, model = np.array([[0., 1], [2, nan], [nan, nan]]), np.array([[2., 3], [4, 5], [9, 9]])
    assert range_shift(base, model).outside == pytest.approx(3 / 4)  # 3, 4 and 5 lie beyond 2; the third prompt is out
    assert range_shift(base[2:], model[2:]) is None
    assert np.isnan(range_shift(base[:1], model[:1]).chance)
