"""Best-of-n and the fits of reward against distance."""

import itertools
import math

import numpy as np
import pytest

from visalign.evaluators.overoptimisation import best_of_n, best_of_n_kl, fit_overoptimisation, past_peak, peak_of


def test_kl_of_best_of_n():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(2) == pytest.approx(math.log(2) - 0.5)
    assert best_of_n_kl(16) == pytest.approx(1.835, abs=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_choices(n):
    rng = np.random.default_rng(0)
    chooser, scores = rng.random((1, 5)), rng.random((1, 5))
    picks = [max(subset, key=lambda i: chooser[0, i]) for subset in itertools.combinations(range(5), n)]
    assert best_of_n(chooser, scores, n)[0] == pytest.approx(np.mean(scores[0, picks]))
    with pytest.raises(ValueError, match="best of 6 needs at least 6"):
        best_of_n(chooser, scores, 6)


@pytest.mark.parametrize("form, peak", [("bon", 2.0), ("rl", math.exp(1.0))])
def test_fits_recover_alpha_beta_and_the_peak(form, peak):
    alpha, beta = (2.0, 0.5) if form == "bon" else (2.0, 1.0)
    d = np.linspace(0.0, 5.0, 9)
    second = d**2 if form == "bon" else np.where(d > 0, d * np.log(np.maximum(d, 1e-9)), 0)
    rewards = (alpha * d - beta * second)[:, None].repeat(12, 1)
    found = fit_overoptimisation(d, rewards, form, resamples=50)
    assert (found.alpha, found.beta) == pytest.approx((alpha, beta))
    assert found.peak == pytest.approx(peak) and found.error < 1e-9
    assert found.at(np.array([2.0]))[0] == pytest.approx(alpha * 2 - beta * (4 if form == "bon" else 2 * math.log(2)))
    assert past_peak(found, 5.0) == "yes" and past_peak(found, 1.0) == "no"


def test_the_peak_has_an_interval_over_prompts():
    rng = np.random.default_rng(0)
    d = np.linspace(0.5, 5, 8)
    rewards = (2 * d - 0.5 * d**2)[:, None] + rng.standard_normal((8, 30))
    found = fit_overoptimisation(d, rewards, "bon")
    assert found.peak_low < 2.0 < found.peak_high < 4.0 and past_peak(found, 2.0) == "unclear"


def test_a_curve_that_only_rises_has_no_peak():
    d = np.array([1.0, 2.0, 3.0])
    assert peak_of(1.0, -0.1, "bon") is None and peak_of(1.0, -0.1, "rl") is None
    found = fit_overoptimisation(d, (d + 0.1 * d**2)[:, None].repeat(4, 1), "bon", resamples=20)
    assert found.peak is None and found.peak_high == math.inf and past_peak(found, 3.0) == "no"


def test_a_fit_needs_three_checkpoints():
    with pytest.raises(ValueError, match="1 checkpoints away"):
        fit_overoptimisation(np.array([0.0, 1.0]), np.zeros((2, 3)), "rl")
