"""Means with bootstrap intervals; the unit that is resampled is the prompt."""

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap


class Estimate(NamedTuple):
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def clear_of_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def mean_with_interval(per_prompt: list[float], seed: int = 0, resamples: int = 5000) -> Estimate:
    """Mean over prompts with a seeded percentile bootstrap; a single prompt has an infinite interval."""
    values = np.asarray(per_prompt, dtype=np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), float("-inf"), float("inf"))
    if np.ptp(values) == 0:
        return Estimate(float(values[0]), float(values[0]), float(values[0]))
    result = bootstrap((values,), np.mean, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed))
    return Estimate(float(values.mean()), *map(float, result.confidence_interval))
