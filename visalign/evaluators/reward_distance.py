"""How far rewards are from each other, in what a policy that is trained or selected by them can tell apart.

    c(r)(p, x) = r(p, x) - mean of r over the samples of p
    d(r1, r2) = | c(r1) / |c(r1)| - c(r2) / |c(r2)| | / 2 = sqrt((1 - rho) / 2)

rho is the correlation within prompts, pooled over them. What differs by a constant per prompt and a positive factor
overall orders every policy alike and has the distance 0; opposite rewards have 1, unrelated ones sqrt(1/2).
Source: STARC metrics (Skalse et al., arXiv 2309.15257).

Differs from the paper in: an episode is one step, a prompt and its sample, and the means are over the samples given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import linkage

from visalign.evaluators.statistics import Estimate, TooFew, over_prompts

UNRELATED = 0.5 ** 0.5


class ConstantReward(ValueError):
    """A reward that scores all samples of every prompt alike, which is at no distance from anything; has its name."""

    def __init__(self, name: str):
        super().__init__(f"{name} scores all samples of each prompt alike, so that it has no distance from another")
        self.name = name


@dataclass(frozen=True)
class RewardDistances:
    """between: by two names in the order of `rewards`, in [0, 1], intervals over prompts. merges: the average-linkage
    tree, float64 [rewards - 1, 4], rows as scipy's `linkage` has them. left_out: samples without a score of every
    reward or alone with their prompt."""

    rewards: tuple[str, ...]
    between: dict[tuple[str, str], Estimate]
    merges: np.ndarray
    samples: int
    prompts: int
    left_out: int

    def of(self, first: str, second: str) -> Estimate:
        """The distance of two rewards, in either order; that of a reward from itself is 0."""
        if first == second:
            return Estimate(0.0, 0.0, 0.0)
        return self.between.get((first, second)) or self.between[second, first]


def reward_distances(scores: Mapping[str, ArrayLike], prompts: Sequence, seed: int = 0) -> RewardDistances:
    """Distances of rewards from their scores [n] of the same samples, NaN where one has none; larger is better.

    prompts: whose sample each is. All distances are of the samples that every reward has scored, since they would not
    obey the triangle inequality otherwise. Raises TooFew for fewer than two rewards or no two such samples of one
    prompt, and ConstantReward.
    """
    names = tuple(scores)
    if len(names) < 2:
        raise TooFew(f"distances need at least 2 rewards, and there is {len(names)}")
    values = np.stack([np.asarray(each, np.float64) for each in scores.values()], 1)
    used, group = _with_company(values, np.asarray(prompts))
    if not len(group):
        raise TooFew("distances need at least 2 samples of one prompt that every reward has scored")
    centred, sizes = _centred(values[used], group), np.bincount(group)
    for j, name in enumerate(names):
        if not centred[:, j].any():
            raise ConstantReward(name)
    units = centred / np.linalg.norm(centred, axis=0)
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    between = {}
    for i, j in pairs:
        value = min(1.0, float(np.linalg.norm(units[:, i] - units[:, j]) / 2))
        products = (units[:, i] ** 2, units[:, j] ** 2, units[:, i] * units[:, j])
        sums = np.stack([np.bincount(group, each, len(sizes)) for each in products], 1)
        drawn = over_prompts(lambda rows, sums=sums: _distance(sums[rows].sum(0)), len(sizes), seed)
        between[names[i], names[j]] = Estimate(value, min(drawn.low, value), max(drawn.high, value))
    merges = linkage([estimate.value for estimate in between.values()], "average", optimal_ordering=len(names) > 2)
    return RewardDistances(names, between, merges, len(used), len(sizes), len(values) - len(used))


def _with_company(values: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that every reward has scored and that are not alone with their prompt, and each one's prompt as a number."""
    known = np.flatnonzero(np.isfinite(values).all(1))
    _, group, sizes = np.unique(prompts[known], return_inverse=True, return_counts=True)
    company = sizes[group] > 1
    return known[company], np.unique(group[company], return_inverse=True)[1]


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Values less their prompt's mean; exactly 0 where a prompt's are all equal, whatever the mean rounds to."""
    centred = np.empty_like(values)
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        own = values[rows]
        centred[rows] = (own - own.mean(0)) * (np.ptp(own, axis=0) > 0)
    return centred


def _distance(moments: np.ndarray) -> float:
    """From sums of squares and products; a draw of prompts in which a reward is constant tells nothing of it."""
    first, second, product = moments
    if first <= 0 or second <= 0:
        return UNRELATED
    return float(np.sqrt(np.clip((1 - product / np.sqrt(first * second)) / 2, 0, 1)))
