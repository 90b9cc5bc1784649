"""Accuracy where the better side has more of a feature, and where it has less, by hand."""

import numpy as np
import pytest

from visalign.evaluators.split_accuracy import LEAST_PAIRS, split_accuracy

PROMPTS = np.arange(40)
BRIGHTER = np.where(PROMPTS % 2 == 0, 0.3, -0.2)


def test_a_reward_that_is_the_feature_itself_has_gap_1_and_one_that_ignores_it_0():
    same = split_accuracy((BRIGHTER > 0).astype(float), BRIGHTER, PROMPTS)
    assert (same.more.value, same.less.value, same.gap.value, same.pairs) == (1, 0, 1, (20, 20))
    blind = split_accuracy(np.ones(40), BRIGHTER, PROMPTS)
    assert blind.gap == (0, 0, 0) and blind.more.value == blind.less.value == 1


def test_halves_are_weighed_by_pairs_and_ties_of_the_feature_count_in_neither():
    difference = np.array([1.0] * 10 + [-1.0] * 20 + [0.0] * 5)
    correct = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 10 + [0.5] * 10 + [0.0] * 5)
    found = split_accuracy(correct, difference, np.arange(35) // 2)
    assert found.pairs == (10, 20) and found.more.value == pytest.approx(0.8)
    assert found.less.value == pytest.approx(0.75) and found.gap.value == pytest.approx(0.05)
    assert found.gap.low < 0 < found.gap.high


def test_too_few_pairs_say_nothing():
    few = np.where(np.arange(40) < LEAST_PAIRS - 1, 1.0, -1.0)
    assert split_accuracy(np.ones(40), few, PROMPTS) is None
