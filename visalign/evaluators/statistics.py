"""Estimates with 95 % bootstrap intervals; the unit that is resampled is the prompt."""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import ArrayLike

LEVEL = 0.95
RESAMPLES = 2000


class TooFew(ValueError):
    """Fewer samples than a measure needs; the message says how many it needs."""


class Estimate(NamedTuple):
    """A number with its interval (95 % unless said otherwise)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def clear_of_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, -self.high, -self.low)

    def scaled(self, by: float) -> "Estimate":
        """In another unit; `by` is positive."""
        return Estimate(self.value * by, self.low * by, self.high * by)


def unknown(value: float) -> Estimate:
    """An estimate without an interval."""
    return Estimate(float(value), float("-inf"), float("inf"))


def mean_with_interval(per_prompt: ArrayLike, seed: int = 0, resamples: int = 5000,
                       level: float = LEVEL) -> Estimate:
    """Mean over prompts with a seeded percentile bootstrap; a single prompt has an infinite interval.

    Raises ValueError when a value is not finite.
    """
    values = np.asarray(per_prompt, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {len(values)} values are not finite")
    if len(values) < 2:
        return unknown(values.mean())
    if np.ptp(values) == 0:
        return Estimate(float(values[0]), float(values[0]), float(values[0]))
    result = scipy.stats.bootstrap((values,), np.mean, n_resamples=resamples, method="percentile",
                                   confidence_level=level, rng=np.random.default_rng(seed))
    return Estimate(float(values.mean()), *map(float, result.confidence_interval))


def relative_change(before: ArrayLike, after: ArrayLike, seed: int = 0, level: float = LEVEL) -> Estimate:
    """mean(after) / mean(before) - 1 over the same prompts, bootstrapped in pairs.

    A mean of 0 before cannot be compared with: the result is then 0 with an infinite interval.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if first.mean() <= 0:
        return unknown(0.0)
    value = float(second.mean() / first.mean() - 1)
    if len(first) < 2:
        return unknown(value)

    def ratio(b, a, axis=-1):
        return a.mean(axis) / np.maximum(b.mean(axis), 1e-12) - 1

    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return Estimate(value, value, value)
    result = scipy.stats.bootstrap((first, second), ratio, paired=True, n_resamples=RESAMPLES, method="percentile",
                                   confidence_level=level, vectorized=True, rng=np.random.default_rng(seed))
    return Estimate(value, *map(float, result.confidence_interval))


def over_prompts(statistic, count: int, seed: int = 0, resamples: int = 1000) -> Estimate:
    """Interval of `statistic(rows)`, a number computed from the prompts with these numbers (repeats allowed)."""
    value = float(statistic(np.arange(count)))
    if count < 2:
        return unknown(value)
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(rng.integers(0, count, count)) for _ in range(resamples)], np.float64)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def sign_test(differences: ArrayLike) -> float:
    """Two-sided p-value for as many prompts improving as getting worse; prompts without a difference do not count."""
    values = np.asarray(differences, np.float64)
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    return 1.0 if better + worse == 0 else float(scipy.stats.binomtest(better, better + worse).pvalue)
