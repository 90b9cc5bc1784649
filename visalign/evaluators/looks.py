"""How sure one look of several may be: intervals whose errors add up to 5 % over all looks of a run.

An interval that errs in 5 % of the cases errs far more often somewhere in twenty looks. So a look spends a share of the
error that is planned for all of them (alpha spending, Lan and DeMets 1983):

    error of look k of J = a(k/J) - a((k-1)/J),   a(f) = f error (`even`) or 2 - 2 Phi(z / sqrt(f)) (`late`)

z: the quantile of `error` in all; `late`, as O'Brien and Fleming's rule, keeps nearly all of it for the last looks.

The union of the looks' errors is then at most `error`, whatever the looks have in common: the same prompts, the same
start. Confidence sequences need looks that are independent given the past, which those at one set of prompts are not.
A look's own interval is Student's, since a bootstrap of some dozen prompts knows nothing of tails of one in a thousand;
a relative change has Fieller's: the changes r for which mean(after - (1 + r) before) = 0 is not rejected.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import scipy
from numpy.typing import ArrayLike

from visalign.evaluators.statistics import Estimate, mean_with_interval, relative_change, unknown

ERROR = 0.05
"""Chance that an interval misses, in all."""


class Intervals(Protocol):
    """Two-sided intervals of one error; `share` of it is an interval's own where several share it."""

    def mean(self, values: ArrayLike, share: float = 1.0) -> Estimate: ...

    def change(self, before: ArrayLike, after: ArrayLike, share: float = 1.0) -> Estimate:
        """Relative change of the mean over the same prompts."""
        ...


@dataclass(frozen=True)
class OneLook:
    """Bootstrap intervals of 95 %, for figures that are looked at once."""

    def mean(self, values: ArrayLike, share: float = 1.0) -> Estimate:
        return mean_with_interval(values, level=1 - ERROR * share)

    def change(self, before: ArrayLike, after: ArrayLike, share: float = 1.0) -> Estimate:
        return relative_change(before, after, level=1 - ERROR * share)


ONE_LOOK = OneLook()


@dataclass(frozen=True)
class OneOfMany:
    """Student's and Fieller's intervals with what a look spends of the error."""

    error: float

    def mean(self, values: ArrayLike, share: float = 1.0) -> Estimate:
        """Raises ValueError when a value is not finite."""
        values = finite(values)
        if len(values) < 2:
            return unknown(values.mean())
        reach = quantile(self.error * share, len(values)) * values.std(ddof=1) / len(values) ** 0.5
        return Estimate(float(values.mean()), float(values.mean() - reach), float(values.mean() + reach))

    def change(self, before: ArrayLike, after: ArrayLike, share: float = 1.0) -> Estimate:
        """0 with an infinite interval where the mean before is not above 0; infinite, too, where it is not clear of 0.

        Raises ValueError when a value is not finite.
        """
        first, second = finite(before), finite(after)
        if first.mean() <= 0:
            return unknown(0.0)
        value = float(second.mean() / first.mean() - 1)
        if len(first) < 2:
            return unknown(value)
        cross = np.cov(first, second) * quantile(self.error * share, len(first)) ** 2 / len(first)
        a, b, c = (first.mean() ** 2 - cross[0, 0], first.mean() * second.mean() - cross[0, 1],
                   second.mean() ** 2 - cross[1, 1])
        if a <= 0:
            return unknown(value)
        root = max(0.0, b * b - a * c) ** 0.5
        return Estimate(value, float((b - root) / a - 1), float((b + root) / a - 1))


def quantile(error: float, count: int) -> float:
    """Of Student's t beyond which `error` lies on both sides together, for the mean of `count` values."""
    return float(scipy.stats.t.isf(error / 2, count - 1))


def finite(values: ArrayLike) -> np.ndarray:
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{(~np.isfinite(found)).sum()} of {len(found)} values are not finite")
    return found


def error_of_look(look: int, looks: int, error: float = ERROR, shape: Literal["even", "late"] = "even") -> float:
    """What look 1, 2, ... of so many planned ones spends. Raises ValueError for a look that was not planned."""
    if not 1 <= look <= looks:
        raise ValueError(f"look {look} of {looks} planned ones")

    def until(fraction: float) -> float:
        if shape == "even" or not fraction:
            return error * fraction
        return float(2 * scipy.stats.norm.sf(scipy.stats.norm.isf(error / 2) / fraction ** 0.5))

    return until(look / looks) - until((look - 1) / looks)
