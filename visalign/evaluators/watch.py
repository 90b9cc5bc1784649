"""Suspicion, from samples that are drawn anyway: is diversity falling within the groups an online run learns from, does
their style drift, or is what was not optimised falling while the optimised reward rises?

    diversity    mean(newest) < (1 - budget / 2) mean(first), one-sided; newest: 8, 16, 32 groups, at 5 % together
    style        |mean(newest) - mean(first)| > drift / 2 standard deviations of the first epochs' single samples
    rewards      one that is held out fell by more than tolerance / 2 of them, and the optimised one rose

The newest groups against those of the run's first epochs: prompt by prompt where enough of the newest prompts were
among the first (Student's), else as two samples (Welch's). This assumes that which prompts an epoch has depends on
nothing that was learnt. Only epochs with the same noisy steps are compared, since noise at other steps changes the
diversity of a group whatever the policy does, and only those of which as many samples were measured.

It is asked after every epoch. Of diversity the error adds up: a suspicion is no verdict, but a reason to look at
held-out prompts. Style and held-out rewards are many, and share 5 % over all of them, both directions, the numbers of
groups and all epochs of the run (Holm's first step, which is all that an alarm takes): a run none of whose figures
moves by more than half of what is allowed makes the guard look for their sake once in twenty times at most.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import scipy

from visalign.evaluators.style import SCALE
from visalign.evaluators.verdict import LEAST_FALL, VerdictLimits

FIRST, NEWEST, ERROR_OF_SUSPICION = 32, (8, 16, 32), 0.05
"""How many groups at least are compared with; how many of the newest are, a few that see a sudden fall and many that
see a slow one; what these tests err together."""

OPTIMISED = "optimised"
"""The level of the weighted rewards that are learnt from."""


@dataclass(frozen=True)
class WatchedEpoch:
    """Groups of an epoch. noisy: its sampling steps with noise. prompts: what tells them apart, [G]. diversity: Vendi
    score less 1 within each, [G]. levels: means within each of `style/NAME`, `reward/NAME` (held out) and `optimised`,
    of the first [<= G], NaN where unknown. spread: standard deviation of single samples, for each level. members: of
    how many samples of a group its diversity is; that of others is another measure."""

    epoch: int
    noisy: tuple[int, ...]
    prompts: tuple[str, ...]
    diversity: tuple[float, ...]
    levels: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    members: int = 0

    def values(self, level: str | None) -> list[tuple[str, float]]:
        """(prompt, value) of each group of which it is known; None: diversity."""
        found = self.diversity if level is None else self.levels.get(level, ())
        return [(prompt, value) for prompt, value in zip(self.prompts, found, strict=False) if math.isfinite(value)]


@dataclass(frozen=True)
class Suspicion:
    """change: of diversity, relative to the first epochs; of a level, in standard deviations of their single samples.
    newest, first: how many groups say so. paired: whether prompt by prompt. level: what moved, None for diversity."""

    change: float
    newest: int
    first: int
    paired: bool
    suspicious: bool
    level: str | None = None

    @property
    def words(self) -> str:
        than = "of the same prompts" if self.paired else f"of the first {self.first}"
        rose = "rose" if self.change > 0 else "fell"
        if self.level is None:
            return (f"diversity within the {self.newest} newest groups {rose} by {100 * abs(self.change):.0f} % "
                    f"against groups {than}")
        kind, _, name = self.level.partition("/")
        aside = " while the optimised reward rose" if kind == "reward" else ""
        return (f"{name.replace('_', ' ')} of the {self.newest} newest groups {rose} by {abs(self.change):.1f} "
                f"standard deviations against groups {than}{aside}")


@dataclass(frozen=True)
class _Sides:
    """Values of the first and of the newest groups; one for each prompt of both, in one order, where paired."""

    before: np.ndarray
    now: np.ndarray
    paired: bool

    def chance(self, before: np.ndarray, now: np.ndarray) -> float:
        """p that the mean of `now` is not below that of `before`. By hand: it is asked dozens of times an epoch."""
        varies = np.ptp(now - before) if self.paired else np.ptp(before) + np.ptp(now)
        if varies < 1e-9:
            return 0.0 if now.mean() < before.mean() else 1.0
        freedom: float
        if self.paired:
            change, freedom = now - before, len(now) - 1
            error = (change.var(ddof=1) / len(now)) ** 0.5
        else:
            parts = np.array([each.var(ddof=1) / len(each) for each in (before, now)])
            error = parts.sum() ** 0.5
            freedom = parts.sum() ** 2 / (parts**2 / (len(before) - 1, len(now) - 1)).sum()
        return float(scipy.special.stdtr(freedom, (now.mean() - before.mean()) / error))

    def below(self, by: float) -> float:
        """p that it fell by no more than so much."""
        return self.chance(self.before - by, self.now)

    def above(self, by: float) -> float:
        return self.chance(-self.before - by, -self.now)


def suspicion_of(epochs: list[WatchedEpoch], limits: VerdictLimits, asked: int = 1) -> Suspicion | None:
    """Of a run's epochs so far, in order. asked: after how many epochs of the run it is asked in all.

    The fewest groups that are enough to be suspicious are told, of diversity before anything else; else the most that
    there are. None while there are too few with the newest epoch's noise, or the first had no diversity.
    """
    alike = [each for each in epochs if (each.noisy, each.members) == (epochs[-1].noisy, epochs[-1].members)]
    found = [_less_diverse(sides, limits.budget) for sides in _sides(alike, None).values() if sides.before.mean() > 0]
    fell = next((each for each in found if each.suspicious), None)
    return fell or next(_moved(alike, limits, asked), None) or (found[-1] if found else None)


def _less_diverse(sides: _Sides, budget: float) -> Suspicion:
    sure = sides.chance((1 - budget / 2) * sides.before, sides.now) < ERROR_OF_SUSPICION / len(NEWEST)
    return Suspicion(float(sides.now.mean() / sides.before.mean() - 1), len(sides.now), len(sides.before),
                     sides.paired, bool(sure))


def _moved(alike: list[WatchedEpoch], limits: VerdictLimits, asked: int) -> Iterator[Suspicion]:
    """Levels that clearly moved by more than half of what is allowed."""
    style, held_out = ([level for level in alike[0].levels if level.startswith(kind)] for kind in ("style/", "reward/"))
    error = ERROR_OF_SUSPICION / asked / len(NEWEST) / max(1, 2 * len(style) + len(held_out))
    optimised = _sides(alike, OPTIMISED) if held_out else {}
    for level in (*style, *held_out):
        unit = _unit(alike, level)
        for groups, sides in _sides(alike, level).items():
            if level in style:
                by = unit * limits.drift / 2
                sure = min(sides.below(by), sides.above(by)) < error
            else:  # both must be clear, so that neither shares its error with the other
                by = unit * max(LEAST_FALL, limits.tolerance / 2)
                sure = sides.below(by) < error and groups in optimised and optimised[groups].above(0.0) < error
            if sure:
                change = float(sides.now.mean() - sides.before.mean()) / unit
                yield Suspicion(change, len(sides.now), len(sides.before), sides.paired, True, level)
                break


def _unit(alike: list[WatchedEpoch], level: str) -> float:
    """Standard deviation of single samples in the first epochs; of style at least 1 % of its scale."""
    known = [each.spread[level] for each in alike if math.isfinite(each.spread.get(level, math.nan))]
    have = np.cumsum([len(each.values(level)) for each in alike])
    spread = float(np.mean(known[:int(np.searchsorted(have, FIRST)) + 1] or 0.0))
    return max(spread, 0.01 * SCALE.get(level.partition("/")[2], 0.0)) or 1.0


def _sides(alike: list[WatchedEpoch], level: str | None) -> dict[int, _Sides]:
    """The newest epochs that have so many groups together against the first ones, for as many of NEWEST as there are.
    """
    values = [each.values(level) for each in alike]
    first, rest = _until(values, FIRST)
    before, found = _by_prompt(first), dict[int, _Sides]()
    for groups in NEWEST:
        newest, _ = _until(rest[::-1], groups)
        if sum(map(len, newest)) < groups:
            break
        now = _by_prompt(newest)
        both = [prompt for prompt in now if prompt in before]
        if paired := len(both) >= groups:
            a, b = (np.array([np.mean(each[prompt]) for prompt in both]) for each in (before, now))
        else:
            a, b = (np.array([value for epoch in part for _, value in epoch]) for part in (first, newest))
        found[groups] = _Sides(a, b, paired)
    return found


_Values = list[list[tuple[str, float]]]


def _until(epochs: _Values, groups: int) -> tuple[_Values, _Values]:
    """The first epochs that have so many groups together, and the others."""
    count = min(len(epochs), int(np.searchsorted(np.cumsum([len(each) for each in epochs]), groups)) + 1)
    return epochs[:count], epochs[count:]


def _by_prompt(epochs: _Values) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for epoch in epochs:
        for prompt, value in epoch:
            found.setdefault(prompt, []).append(value)
    return found
