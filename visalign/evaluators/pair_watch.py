"""Suspicion from held-out pairs while an offline run learns from others: are they denoised worse, or preferred less?

    growth    mean(chosen) > (1 + growth / 2) mean(chosen at the start): what the model is to make became unlikelier
              (likelihood displacement, Razin et al. 2024, by the denoising error that stands for it)
    margin    mean((rejected - its start) - (chosen - its start)) < 0: the change prefers the rejected (below 0, DPO's
              implicit reward is wrong on pairs that were not learnt from)

Errors are means over fixed noise, of the same pairs every time. Each of both is one-sided, Student's, and has half of
5 % over all moments at which it is asked, which the union of their errors then is at most, whatever moments of the same
pairs have in common.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from visalign.evaluators.statistics import Estimate
from visalign.evaluators.watch import ERROR_OF_SUSPICION

TESTS = 2


@dataclass(frozen=True)
class PairErrorsSeen:
    """Mean errors of held-out pairs at one step, [n]; rejected is empty where the objective does not see it."""

    step: int
    chosen: tuple[float, ...]
    rejected: tuple[float, ...] = ()


@dataclass(frozen=True)
class PairSuspicion:
    """growth: of the chosen samples' error, relative to the start. margin: by how much more the rejected ones' grew, in
    the unit of the error; None where it is not seen. Intervals are one-sided."""

    growth: float
    margin: Estimate | None
    pairs: int
    grew: bool
    turned: bool

    @property
    def suspicious(self) -> bool:
        return self.grew or self.turned

    @property
    def words(self) -> str:
        more = "more" if self.growth > 0 else "less"
        grew = (f"the error on the chosen samples of {self.pairs} held-out pairs is {100 * abs(self.growth):.0f} % "
                f"{more} than at the start")
        turned = f"what was learnt prefers the rejected samples of {self.pairs} held-out pairs"
        return " and ".join([grew] * (self.grew or not self.turned) + [turned] * self.turned)


def pair_suspicion(start: PairErrorsSeen, now: PairErrorsSeen, growth: float, moments: int) -> PairSuspicion:
    """growth: share by which the error on chosen samples may grow. moments: how often it is asked in the run."""
    error = ERROR_OF_SUSPICION / TESTS / moments
    before, after = np.array(start.chosen), np.array(now.chosen)
    grew = _above_zero(after - (1 + growth / 2) * before, error)
    margin = None
    if now.rejected:
        values = (np.array(now.rejected) - np.array(start.rejected)) - (after - before)
        margin = Estimate(float(values.mean()), float("-inf"), float(values.mean() + _reach(values, error)))
    return PairSuspicion(float(after.mean() / before.mean() - 1), margin, len(after), grew,
                         margin is not None and margin.high < 0)


def _above_zero(values: np.ndarray, error: float) -> bool:
    return bool(values.mean() - _reach(values, error) > 0)


def _reach(values: ArrayLike, error: float) -> float:
    """How far below its mean a one-sided interval reaches; infinite for a single value."""
    values = np.asarray(values)
    if len(values) < 2:
        return float("inf")
    return float(scipy.special.stdtrit(len(values) - 1, 1 - error) * values.std(ddof=1) / len(values) ** 0.5)
