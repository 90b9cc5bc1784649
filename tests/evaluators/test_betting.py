"""Intervals that hold at every look: how often they do, how wide they are, and what they refuse."""

import numpy as np
import pytest

from visalign.evaluators.betting import running_mean


def test_before_the_first_value_everything_is_possible_and_one_value_says_little():
    assert running_mean([]) == (0.5, 0.0, 1.0)
    found = running_mean([1.0])
    assert found.value == 1 and found.low < 0.1 and found.high == 1


def test_two_bets_by_hand():
    # bets against small m: sqrt(2 log 40 / (0.25 log 2)) = 6.525 first, then, with mean 3/4 and variance 0.3125 / 2,
    # sqrt(2 log 40 / (0.3125 log 3)) = 4.636; (1 + 6.525 (1 - m)) (1 + 4.636 (1 - m)) = 40 at m = 0.0336
    assert running_mean([1.0]).low == 0.0
    assert running_mean([1.0, 1.0]).low == pytest.approx(0.0336, abs=0.0015)
    assert running_mean([0.0, 0.0]).high == pytest.approx(1 - 0.0336, abs=0.0015)


def test_intervals_shrink_and_close_in_on_the_mean():
    values = np.random.default_rng(0).random(2000) < 0.7
    widths = [found.high - found.low for found in (running_mean(values[:n]) for n in (20, 200, 2000))]
    assert widths[0] > widths[1] > widths[2] and widths[2] < 0.11
    last = running_mean(values)
    assert last.low < 0.7 < last.high
    mirrored = running_mean(1 - values)
    assert mirrored.low == pytest.approx(1 - last.high, abs=0.005)


def test_they_hold_at_every_look_together():
    rng, runs, missed = np.random.default_rng(0), 300, 0
    for _ in range(runs):
        found = running_mean(rng.random(150) < 0.6)  # the intersection of all intervals so far
        missed += not found.low <= 0.6 <= found.high
    assert missed / runs < 0.05


def test_values_that_drift_are_said_to_have_no_single_mean():
    assert running_mean([0.0] * 400 + [1.0] * 400) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("values", [[1.2], [-0.1, 0.5], [np.nan]])
def test_what_is_not_a_share_is_refused(values):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        running_mean(values)
