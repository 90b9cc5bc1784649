"""Agreement of a reward with labels: numbers worked out by hand."""

import numpy as np
import pytest

from visalign.evaluators.reward_accuracy import (
    agreement,
    calibration,
    clustered_mean,
    correctness,
    three_way,
    tie_threshold,
)


def test_correctness_counts_a_margin_of_zero_as_half():
    assert correctness(np.array([1.0, -1.0, 0.0, 2.0]), np.array([1, 1, 1, 0])).tolist() == [1, 0, 0.5, 0]


def test_the_tie_threshold_is_the_best_one():
    margins = np.array([0.1, -0.2, 1.0, -2.0, 0.05])
    outcomes = np.array([0.5, 0.5, 1.0, 0.0, 1.0])
    threshold = tie_threshold(margins, outcomes)
    assert threshold == pytest.approx(0.2)  # both ties right, one small win lost: 4 of 5
    assert three_way(margins, outcomes, threshold).mean() == pytest.approx(0.8)


def test_without_true_ties_below_any_threshold_none_is_called():
    assert tie_threshold(np.array([1.0, 2.0]), np.array([1.0, 1.0])) < 0


def test_agreement_reports_accuracy_ties_and_tau_per_prompt():
    margins = np.array([1.0, 1.0, -1.0, 1.0, 0.0])
    found = agreement(margins, np.array([1, 1, 1, 1, 0.5]), ["p", "p", "p", "q", "q"])
    assert (found.pairs, found.ties) == (4, 1) and found.accuracy.value == 0.75
    assert found.kendall_tau.value == pytest.approx(((2 - 1) / 3 + 1) / 2)
    assert found.with_ties.value == pytest.approx(0.8)


def test_the_bootstrap_resamples_prompts_not_pairs():
    values = np.array([1.0] * 50 + [0.0] * 50)
    narrow = clustered_mean(values, np.arange(100))
    wide = clustered_mean(values, np.repeat([0, 1], 50))
    assert wide.low == 0 and wide.high == 1 and 0.35 < narrow.low < narrow.high < 0.65


def test_a_perfect_score_on_few_prompts_is_not_certain():
    # Clopper-Pearson at n = n: low = 0.025 ** (1 / n)
    assert clustered_mean(np.ones(20), np.repeat(np.arange(10), 2)).low == pytest.approx(0.025 ** (1 / 10))
    assert clustered_mean(np.ones(10), np.arange(10), lowest=-1.0).low == pytest.approx(2 * 0.025 ** (1 / 10) - 1)


def test_one_prompt_has_no_interval():
    assert clustered_mean(np.array([1.0, 0.0]), np.zeros(2)).low == float("-inf")


def test_a_calibrated_reward_has_no_calibration_error_and_an_overconfident_one_has():
    rng = np.random.default_rng(0)
    margins = rng.normal(scale=2, size=20000)
    outcomes = (rng.random(20000) < 1 / (1 + np.exp(-margins))).astype(float)
    assert calibration(margins, outcomes).error < 0.01
    assert calibration(3 * margins, outcomes).error > 0.08
    assert calibration(-margins, 1 - outcomes).error == pytest.approx(calibration(margins, outcomes).error)
