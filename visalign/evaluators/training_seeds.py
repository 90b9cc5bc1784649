"""A change over several training seeds of one recipe: what another run, at other prompts, would be expected to change.

    d_tp = change + run_t + prompt_p + rest_tp,   T runs at the same P prompts, runs and prompts random and crossed
    variance of the mean = (MS_run + MS_prompt - MS_rest) / (T P)

The mean squares are those of a two-way analysis of variance; the interval is Student's with the degrees of freedom of
Satterthwaite (1946). With two or three runs it is wide, as it should be: an interval over prompts alone says how sure a
change of these very weights is, and nothing of the next run's.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from visalign.evaluators.statistics import LEVEL, Estimate, TooFew


@dataclass(frozen=True)
class SeedsChange:
    """change: the mean with its interval. each: of every run. between: standard deviation between runs, what prompts
    and chance explain taken off; 0 where they explain all."""

    change: Estimate
    each: tuple[float, ...]
    between: float


def over_training_seeds(changes: ArrayLike, level: float = LEVEL) -> SeedsChange:
    """From changes [T, P] of T runs. Raises TooFew for a single run or prompt, ValueError where one is not finite."""
    values = np.asarray(changes, np.float64)
    runs, prompts = values.shape
    if runs < 2 or prompts < 2:
        raise TooFew(f"training seeds need at least 2 runs at 2 prompts; there are {runs} at {prompts}")
    if not np.isfinite(values).all():
        raise ValueError(f"{(~np.isfinite(values)).sum()} of {values.size} changes are not finite")
    by_run, by_prompt, mean = values.mean(1), values.mean(0), values.mean()
    rest = values - by_run[:, None] - by_prompt[None, :] + mean
    squares = prompts * by_run.var(ddof=1), runs * by_prompt.var(ddof=1), (rest**2).sum() / ((runs - 1) * (prompts - 1))
    # where chance makes the sum small, a single effect still counts
    total = max(squares[0] + squares[1] - squares[2], *squares[:2])
    each = tuple(by_run.tolist())
    between = float(max(0.0, (squares[0] - squares[2]) / prompts) ** 0.5)
    if total == 0:
        return SeedsChange(Estimate(float(mean), float(mean), float(mean)), each, between)
    parts = (squares[0]**2 / (runs - 1) + squares[1]**2 / (prompts - 1)
             + squares[2]**2 / ((runs - 1) * (prompts - 1)))
    freedom = max(1.0, total**2 / parts)
    reach = scipy.stats.t.ppf((1 + level) / 2, freedom) * (total / (runs * prompts)) ** 0.5
    return SeedsChange(Estimate(float(mean), float(mean - reach), float(mean + reach)), each, between)
