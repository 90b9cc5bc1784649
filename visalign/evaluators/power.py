"""How much evidence a claim needs: the prompts, seeds and votes with which an effect is seen in four of five cases.

    d_pk = after - before of prompt p and seed k = effect + prompt_p + seed_pk
    variance of the mean = s_prompt^2 / P + s_seed^2 / (P K),   effect seen = (t_{1 - error/2} + t_power) sqrt(variance)

with the quantiles of Student's t with P - 1 degrees of freedom. A pilot gives both variances by the method of moments:
s_seed^2 is the mean variance within prompts, s_prompt^2 that of the prompts' means less s_seed^2 / K, at least 0.
More seeds of a prompt never help as much as so many more prompts; they are what is left where prompts are few.
"""

from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from visalign.evaluators.statistics import LEVEL, Estimate, TooFew

POWER = 0.8
MOST_PROMPTS = 1_000_000
"""Prompts, beyond which an effect is called out of reach."""


class Spread(NamedTuple):
    """Standard deviations of differences, in their unit: between prompts, and between seeds of a prompt."""

    prompt: float
    seed: float

    def variance(self, seeds: int) -> float:
        """Of one prompt's mean over its seeds."""
        return self.prompt**2 + self.seed**2 / seeds

    def scaled(self, by: float) -> "Spread":
        """In another unit."""
        return Spread(self.prompt * by, self.seed * by)


def spread_of(differences: ArrayLike) -> Spread:
    """From a pilot's differences [P, K]. Raises TooFew for a single prompt or seed, and ValueError where nothing
    differs or a difference is not finite."""
    values = np.asarray(differences, np.float64)
    prompts, seeds = values.shape
    if prompts < 2 or seeds < 2:
        raise TooFew("a pilot needs at least 2 prompts with 2 seeds each, to tell one from the other; it has "
                     f"{prompts} with {seeds}")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {values.size} differences are not finite")
    within = values.var(axis=1, ddof=1).mean()
    between = max(0.0, values.mean(axis=1).var(ddof=1) - within / seeds)
    if within == 0 and between == 0:
        raise ValueError("all differences of the pilot are equal, so nothing can be said of their spread")
    return Spread(float(between**0.5), float(within**0.5))


def detectable(spread: Spread, prompts: int, seeds: int) -> float:
    """The smallest change of the mean that is seen with a probability of 80 %; infinite with a single prompt."""
    return reach(prompts) * (spread.variance(seeds) / prompts) ** 0.5 if prompts > 1 else float("inf")


def prompts_needed(spread: Spread, effect: float, seeds: int) -> int | None:
    """The fewest prompts with which a change of `effect` is seen; None where a million are too few.

    Raises ValueError for an effect that is not above 0.
    """
    if not effect > 0:
        raise ValueError(f"an effect is above 0, got {effect:g}")
    low, high = 1, 2
    while detectable(spread, high, seeds) > effect:
        low, high = high, 2 * high
        if high > MOST_PROMPTS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(spread, middle, seeds) <= effect else (middle, high)
    return high


def votes_needed(share: float) -> int:
    """Decided votes with which a model that wins `share` of them is told from its equal. Raises ValueError for a share
    that is not between 1/2 and 1."""
    if not 0.5 < share < 1:
        raise ValueError(f"a share to tell from one half lies between 0.5 and 1, got {share:g}")
    sure, seen = scipy.stats.norm.ppf([(1 + LEVEL) / 2, POWER])
    return int(np.ceil(((sure * 0.5 + seen * (share * (1 - share)) ** 0.5) / (share - 0.5)) ** 2))


def seen_by(change: Estimate) -> float:
    """The smallest change that an interval of 95 % as wide as this one would have told from none in 80 % of cases."""
    sure, seen = scipy.stats.norm.ppf([(1 + LEVEL) / 2, POWER])
    return float((change.high - change.low) / 2 * (sure + seen) / sure)


def reach(prompts: int) -> float:
    """By how many standard errors a change must exceed 0 to be seen so often."""
    return float(scipy.stats.t.ppf([(1 + LEVEL) / 2, POWER], prompts - 1).sum())
