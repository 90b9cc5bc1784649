"""Suspicion from held-out pairs: by hand, and how often it errs over whole runs."""

import numpy as np
import pytest
import scipy

from visalign.evaluators.pair_watch import PairErrorsSeen, pair_suspicion


def seen(step, chosen, rejected=()):
    return PairErrorsSeen(step, tuple(map(float, chosen)), tuple(map(float, rejected)))


def test_growth_by_hand():
    """Errors 1 grow to 1.1, 1.2, 1.3 and 1.2: beyond half of 20 % by 0, 0.1, 0.2, 0.1: mean 0.1, standard error 0.0408,
    t = 2.449, p = 0.0459 of 3 degrees of freedom, one-sided."""
    start, now = seen(0, [1] * 4), seen(9, [1.1, 1.2, 1.3, 1.2])
    by_scipy = scipy.stats.ttest_1samp([0, 0.1, 0.2, 0.1], 0, alternative="greater").pvalue
    assert by_scipy == pytest.approx(0.0459, abs=1e-4)
    found = pair_suspicion(start, now, 0.2, moments=1)  # half of 5 %: not sure enough
    assert found.growth == pytest.approx(0.2) and found.margin is None and not found.suspicious
    assert pair_suspicion(start, now, 0.14, 1).grew and not pair_suspicion(start, now, 0.14, 100).grew
    assert pair_suspicion(start, now, 0.14, 1).words == (
        "the error on the chosen samples of 4 held-out pairs is 20 % more than at the start")


def test_a_change_that_prefers_the_rejected_by_hand():
    """Both errors fall, that of the rejected by 0.2, 0.3, 0.3, 0.4 more: the margin's mean is -0.3."""
    start = seen(0, [1] * 4, [1] * 4)
    now = seen(9, [0.9] * 4, [0.7, 0.6, 0.6, 0.5])
    found = pair_suspicion(start, now, 0.1, moments=1)
    assert found.turned and not found.grew and found.margin.value == pytest.approx(-0.3)
    reach = scipy.stats.t.isf(0.025, 3) * np.std([0.2, 0.3, 0.3, 0.4], ddof=1) / 2
    assert found.margin.high == pytest.approx(-0.3 + reach)
    assert found.words == "what was learnt prefers the rejected samples of 4 held-out pairs"
    turned = pair_suspicion(start, seen(9, [0.7, 0.6, 0.6, 0.5], [0.9] * 4), 0.1, 1)  # as it should be
    assert not turned.suspicious
    both = pair_suspicion(start, seen(9, [2, 2.1, 2.2, 2.1], [1] * 4), 0.1, 1)
    assert both.grew and both.turned and " and what was learnt" in both.words


def test_one_pair_says_nothing_and_no_change_neither():
    assert not pair_suspicion(seen(0, [1], [1]), seen(1, [9], [1]), 0.1, 1).suspicious
    assert not pair_suspicion(seen(0, [1, 2], [1, 2]), seen(1, [1, 2], [1, 2]), 0.1, 1).suspicious


def test_runs_at_the_edge_of_harm_are_suspected_in_one_of_twenty_at_most_and_harmful_ones_soon():
    """40 moments at 16 pairs. At the edge the chosen error has grown by half of what is allowed and the margin is 0."""
    def first(rng, grown, margin):
        start = np.exp(rng.normal(0, 0.5, 16))
        for k in range(1, 41):
            chosen = start * (1 + grown(k) + rng.normal(0, 0.05, 16))
            rejected = start * (1 + grown(k) + margin(k) + rng.normal(0, 0.05, 16))
            if pair_suspicion(seen(0, start, start), seen(k, chosen, rejected), 0.1, 40).suspicious:
                return k
        return None

    rng, runs = np.random.default_rng(0), 200
    false = sum(first(rng, lambda k: 0.05, lambda k: 0.0) is not None for _ in range(runs))
    unlikely = [first(rng, lambda k: 0.01 * k, lambda k: 0.0) for _ in range(20)]
    turned = [first(rng, lambda k: 0.0, lambda k: -0.01 * k) for _ in range(20)]
    print(false, unlikely, turned)
    assert false / runs <= 0.05
    assert max(unlikely) <= 14 and max(turned) <= 10
