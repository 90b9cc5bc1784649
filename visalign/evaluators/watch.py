"""Suspicion, from samples that are drawn anyway: is diversity falling within the groups an online run learns from?

    suspicious   mean(newest) < (1 - budget/2) mean(first), one-sided; newest: 8, 16, 32 groups, at 5 % together

The newest groups against those of the run's first epochs: prompt by prompt where enough of the newest prompts were
among the first (Student's), else as two samples (Welch's). This assumes that which prompts an epoch has depends on
nothing that was learnt. Only epochs with the same noisy steps are compared, since noise at other steps changes the
diversity of a group whatever the policy does.

It is asked after every epoch and its error adds up: a suspicion is no verdict, but a reason to look at held-out
prompts.
"""

from dataclasses import dataclass

import numpy as np
import scipy

FIRST, NEWEST, ERROR = 32, (8, 16, 32), 0.05
"""How many groups at least are compared with; how many of the newest are, a few that see a sudden fall and many that
see a slow one; what these tests err together."""


@dataclass(frozen=True)
class WatchedEpoch:
    """Groups of an epoch. noisy: its sampling steps with noise. prompts: what tells them apart, [G]. diversity: Vendi
    score less 1 within each, [G]."""

    epoch: int
    noisy: tuple[int, ...]
    prompts: tuple[str, ...]
    diversity: tuple[float, ...]


@dataclass(frozen=True)
class Suspicion:
    """change: of diversity, relative to the first epochs. newest, first: how many groups say so. paired: whether
    prompt by prompt."""

    change: float
    newest: int
    first: int
    paired: bool
    suspicious: bool

    @property
    def words(self) -> str:
        than = "of the same prompts" if self.paired else f"of the first {self.first}"
        return (f"diversity within the {self.newest} newest groups {'rose' if self.change > 0 else 'fell'} by "
                f"{100 * abs(self.change):.0f} % against groups {than}")


def suspicion_of(epochs: list[WatchedEpoch], budget: float) -> Suspicion | None:
    """Of a run's epochs so far, in order. budget: share of diversity that may be lost, in (0, 1).

    The fewest groups that are enough to be suspicious are told, else the most that there are. None while there are too
    few with the newest epoch's noise, or the first had no diversity.
    """
    alike = [each for each in epochs if each.noisy == epochs[-1].noisy]
    first, rest = _until(alike, FIRST)
    found = [each for groups in NEWEST if (each := _compared(first, rest, groups, budget)) is not None]
    return next((each for each in found if each.suspicious), found[-1] if found else None)


def _compared(first: list[WatchedEpoch], rest: list[WatchedEpoch], groups: int, budget: float) -> Suspicion | None:
    """The newest epochs that have so many groups together against the first ones."""
    newest, _ = _until(rest[::-1], groups)
    if sum(len(each.prompts) for each in newest) < groups:
        return None
    before, now = _by_prompt(first), _by_prompt(newest)
    both = [prompt for prompt in now if prompt in before]
    if paired := len(both) >= groups:
        a, b = (np.array([np.mean(found[prompt]) for prompt in both]) for found in (before, now))
    else:
        a, b = (np.array([value for each in part for value in each.diversity]) for part in (first, newest))
    if a.mean() <= 0:
        return None
    allowed = (1 - budget / 2) * a
    varies = np.ptp(b - allowed) if paired else np.ptp(a) + np.ptp(b)
    if varies < 1e-9:
        sure = b.mean() < allowed.mean()
    elif paired:
        sure = scipy.stats.ttest_rel(b, allowed, alternative="less").pvalue < ERROR / len(NEWEST)
    else:
        sure = scipy.stats.ttest_ind(b, allowed, equal_var=False, alternative="less").pvalue < ERROR / len(NEWEST)
    return Suspicion(float(b.mean() / a.mean() - 1), len(b), len(a), paired, bool(sure))


def _until(epochs: list[WatchedEpoch], groups: int) -> tuple[list[WatchedEpoch], list[WatchedEpoch]]:
    """The first epochs that have so many groups together, and the others."""
    have = np.cumsum([len(each.prompts) for each in epochs])
    count = min(len(epochs), int(np.searchsorted(have, groups)) + 1)
    return epochs[:count], epochs[count:]


def _by_prompt(epochs: list[WatchedEpoch]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for each in epochs:
        for prompt, value in zip(each.prompts, each.diversity, strict=True):
            found.setdefault(prompt, []).append(value)
    return found
