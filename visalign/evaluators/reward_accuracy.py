"""How far a reward agrees with labels: accuracy with and without ties, calibration, Kendall's tau.

Margins are reward(a) - reward(b), larger meaning that a is better; outcomes 1 (a), 0 (b) or 0.5 (tie). Intervals come
from a bootstrap over prompts, since annotations of one prompt are not independent.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from scipy.special import expit

from visalign.evaluators.statistics import Estimate


@dataclass(frozen=True)
class Agreement:
    """One dimension of one reward on one set. tie_threshold: |margin| below it counts as a tie, chosen on this set."""

    pairs: int
    ties: int
    accuracy: Estimate | None
    with_ties: Estimate | None
    tie_threshold: float | None
    kendall_tau: Estimate | None


def agreement(margins: np.ndarray, outcomes: np.ndarray, prompts: list[str]) -> Agreement:
    """All metrics of one set; a metric that the set cannot give is None."""
    margins, outcomes = np.asarray(margins, np.float64), np.asarray(outcomes, np.float64)
    decided = outcomes != 0.5
    correct = correctness(margins, outcomes)
    groups = np.unique(prompts, return_inverse=True)[1]
    threshold = tie_threshold(margins, outcomes) if (~decided).any() else None
    ties_right = None if threshold is None else three_way(margins, outcomes, threshold)
    tau = None
    if decided.any():
        concordance = 2 * correct[decided] - 1
        per_prompt = np.array([concordance[groups[decided] == g].mean() for g in np.unique(groups[decided])])
        tau = clustered_mean(per_prompt, np.arange(len(per_prompt)), lowest=-1.0)
    return Agreement(int(decided.sum()), int((~decided).sum()),
                     clustered_mean(correct[decided], groups[decided]) if decided.any() else None,
                     None if ties_right is None else clustered_mean(ties_right, groups), threshold, tau)


def correctness(margins: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """1 where the margin's sign agrees with a decided outcome, 1/2 for a margin of 0, else 0."""
    toward = margins * np.where(outcomes > 0.5, 1, -1)
    return (toward > 0) + 0.5 * (toward == 0)


def three_way(margins: np.ndarray, outcomes: np.ndarray, threshold: float) -> np.ndarray:
    """1 where win, loss or tie (|margin| <= threshold) is predicted correctly."""
    called = np.where(np.abs(margins) <= threshold, 0.5, (margins > 0).astype(float))
    return (called == outcomes).astype(float)


def tie_threshold(margins: np.ndarray, outcomes: np.ndarray) -> float:
    """The threshold with the highest three-way accuracy on this very set (Deutsch et al. 2023, tie calibration)."""
    sizes = np.abs(margins)
    order = np.argsort(sizes)
    tied = (outcomes[order] == 0.5).astype(int)
    right = ((margins[order] > 0) == (outcomes[order] > 0.5)).astype(int) * (1 - tied)
    # below each threshold ties are correct, above it decided pairs
    totals = np.concatenate([[right.sum()], np.cumsum(tied) + right.sum() - np.cumsum(right)])
    best = int(totals.argmax())
    return -1.0 if best == 0 else float(sizes[order][best - 1])


def clustered_mean(values: np.ndarray, groups: np.ndarray, lowest: float = 0.0, seed: int = 0,
                   resamples: int = 2000) -> Estimate:
    """Mean of values in [lowest, 1] with a seeded percentile bootstrap that resamples whole groups.

    Where all values are equal a bootstrap has no width; the interval is then Clopper and Pearson's for as many
    independent trials as there are groups.
    """
    _, inverse = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(inverse, values), np.bincount(inverse)
    mean = float(values.mean())
    if len(sums) < 2:
        return Estimate(mean, float("-inf"), float("inf"))
    if np.ptp(values) == 0:
        share = (mean - lowest) / (1 - lowest)
        bounds = scipy.stats.binomtest(round(share * len(sums)), len(sums)).proportion_ci()
        return Estimate(mean, *(lowest + (1 - lowest) * float(bound) for bound in (bounds.low, bounds.high)))

    def ratio(s, n, axis=-1):
        return s.sum(axis) / n.sum(axis)

    result = scipy.stats.bootstrap((sums, counts), ratio, paired=True, n_resamples=resamples, method="percentile",
                                   vectorized=True, batch=200, rng=np.random.default_rng(seed))
    return Estimate(mean, *map(float, result.confidence_interval))


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error, and per bin: mean predicted probability, share that won, number of pairs."""

    error: float
    predicted: list[float]
    observed: list[float]
    counts: list[int]


def calibration(margins: np.ndarray, outcomes: np.ndarray, bins: int = 15) -> Calibration:
    """ECE of sigmoid(margin) on the decided pairs, margins in log-odds. Each pair counts once, from its likelier side.

    Folding to the likelier side makes the result independent of which side is called a.
    """
    decided = np.asarray(outcomes) != 0.5
    margins, outcomes = np.asarray(margins, np.float64)[decided], np.asarray(outcomes, np.float64)[decided]
    probability, won = expit(np.abs(margins)), correctness(margins, outcomes)
    place = np.minimum(((probability - 0.5) * 2 * bins).astype(int), bins - 1)
    filled = [b for b in range(bins) if (place == b).any()]
    predicted = [float(probability[place == b].mean()) for b in filled]
    observed = [float(won[place == b].mean()) for b in filled]
    counts = [int((place == b).sum()) for b in filled]
    error = sum(n * abs(p - o) for n, p, o in zip(counts, predicted, observed, strict=True)) / max(1, sum(counts))
    return Calibration(float(error), predicted, observed, counts)
