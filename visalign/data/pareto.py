"""CaPO: how often each generation of a prompt wins by each reward, and pairs of the best and the worst trade-offs.

Lee et al. 2025 (arXiv 2502.02588). With R_i the reward of generation i of n, by one reward and for one prompt,

    Rc_i = 1/(n-1) sum_{j != i} s(R_i - R_j)        its calibrated reward, averaged over the rewards
    pair = one of the upper Pareto front (nothing is better by one reward and as good by all others) against one of the
           lower front (it is better than nothing); dRc, the gap of their calibrated rewards, is the pair's strength

A reward that was trained by Bradley-Terry is in log-odds, for which s gives the chance of winning. Others can be
measured in their own standard deviations (`standardised`), which is not the paper's.

Differs from the paper in: a generation that nothing dominates and that dominates nothing is in neither front.
"""

import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Any

from visalign.data.pair_selection import Candidate, Chosen
from visalign.errors import UserError

ADVISED = 8
"""Generations of a prompt from which on its win rates say something."""

MANY_REWARDS = 4
"""With more of them nearly every generation is the best at something."""

LEAST_LEVEL = 0.02
"""Mean distance of the win rates from 1/2 below which a reward hardly says who wins."""

Rewarded = Mapping[str, Mapping[int, tuple[float, ...]]]
"""By prompt and by the number of a generation its rewards, larger is better."""


def calibrated_rewards(scores: Sequence[float]) -> list[float]:
    """Rc of each of a prompt's n scores, 0 to 1; 1/2 for one alone."""
    others = len(scores) - 1
    if not others:
        return [0.5] * len(scores)
    return [math.fsum(_sigmoid(mine - theirs) for j, theirs in enumerate(scores) if j != i) / others  # ties stay ties
            for i, mine in enumerate(scores)]


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the first is better by one reward and at least as good by all others."""
    both = list(zip(first, second, strict=True))
    return all(a >= b for a, b in both) and any(a > b for a, b in both)


def fronts(points: Mapping[int, tuple[float, ...]]) -> tuple[list[int], list[int]]:
    """The numbers of the upper and of the lower Pareto front; what would be in both is in neither."""
    beaten = {a: any(dominates(theirs, mine) for theirs in points.values()) for a, mine in points.items()}
    beats = {a: any(dominates(mine, theirs) for theirs in points.values()) for a, mine in points.items()}
    return [a for a in points if beats[a] and not beaten[a]], [a for a in points if beaten[a] and not beats[a]]


def pareto_pairs(points: Mapping[int, tuple[float, ...]], top: int = 1, seed: int = 0) -> list[Chosen]:
    """At most `top` pairs of one prompt, upper front against lower, each generation once, drawn at random; of each
    the score is its calibrated reward."""
    numbers = sorted(points)
    rates = [calibrated_rewards(each) for each in zip(*(points[number] for number in numbers), strict=True)]
    scored = {number: Candidate(number, fmean(each)) for number, each in zip(numbers, zip(*rates, strict=True),
                                                                             strict=True)}
    rng = random.Random(seed)
    upper, lower = fronts({number: points[number] for number in numbers})
    rng.shuffle(upper)
    rng.shuffle(lower)
    return [(scored[a], scored[b]) for a, b in zip(upper, lower, strict=False)][:top]


def together(rewards: Sequence[Mapping[str, Mapping[int, float]]]) -> dict[str, dict[int, tuple[float, ...]]]:
    """The scores of several rewards, each by prompt and number, as one; generations that one of them could not score
    are left out."""
    return {prompt: {number: tuple(each[prompt][number] for each in rewards) for number in first
                     if all(number in each.get(prompt, ()) for each in rewards)}
            for prompt, first in rewards[0].items()}


def standardised_rewards(groups: Rewarded, names: Sequence[str]) -> dict[str, dict[int, tuple[float, ...]]]:
    """Each reward divided by its standard deviation within prompts, pooled over them.

    Raises UserError for one that scores all generations of every prompt alike.
    """
    spreads = []
    for k, name in enumerate(names):
        variances = [pvariance([values[k] for values in each.values()]) for each in groups.values() if len(each) > 1]
        spreads.append(math.sqrt(fmean(variances)) if variances else 0.0)
        if not spreads[-1]:
            raise UserError(f"standardise: {name} scores all generations of each prompt alike, so it has no standard "
                            "deviation to be measured in; leave that reward out")
    return {prompt: {number: tuple(value / spread for value, spread in zip(values, spreads, strict=True))
                     for number, values in each.items()} for prompt, each in groups.items()}


def calibration_notes(groups: Rewarded, names: Sequence[str], key: str) -> tuple[str, ...]:
    """What makes win rates or fronts say little, in sentences; key: what standardises rewards."""
    sizes, found = [len(each) for each in groups.values()], []
    few = sum(size < ADVISED for size in sizes)
    if few:
        found.append(f"{few} of {len(sizes)} prompts have fewer than {ADVISED} scored generations (the fewest "
                     f"{min(sizes)}), so their win rates are coarse")
    if len(names) > MANY_REWARDS:
        found.append(f"with {len(names)} rewards nearly every generation is the best at something, so Pareto fronts "
                     f"say little; {MANY_REWARDS} are the most that are advised")
    for k, name in enumerate(names):
        level = fmean([abs(rate - 0.5) for each in groups.values()
                       for rate in calibrated_rewards([values[k] for values in each.values()])] or [0.5])
        if level < LEAST_LEVEL:
            found.append(f"the win rates by {name} are 0.5 +- {level:.4f} on average, since its scores differ by "
                         f"little on the sigmoid's scale; {key} measures each reward in its own standard deviations")
    return tuple(found)


def check_distinct(rewards: Sequence[Any]) -> None:
    """Raise UserError for a reward, by its name, that is given twice."""
    names = [reward.name for reward in rewards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"rewards: {twice} is given twice; name each once")


def check_win_rates(pair: Any) -> None:
    """Raise UserError for a pair, of images or as it is encoded, whose rewards are missing or no win rates."""
    given = (pair.chosen_reward, pair.rejected_reward)
    fault = "has no chosen_reward and rejected_reward" if None in given else next(
        (f"has a reward of {value:g}, which is no win rate" for value in given if not 0 <= value <= 1), None)
    if fault:
        raise UserError(f"{pair.where}: {fault}; objective.link=calibrated needs how often each sample wins, from 0 to "
                        "1, as `visalign data pairs --strategy pareto` and data.feedback.strategy=pareto write it (for "
                        "other pairs take link sigmoid or ipo)")
