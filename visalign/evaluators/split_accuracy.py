"""Is a reward as right where the better image is the brighter one as where it is the darker one?

    gap = accuracy on pairs whose better side has more of a feature - accuracy on pairs whose better side has less

A reward that pays for the feature itself is right in the one half and wrong in the other: gap 1. One that does not look
at it has gap 0, whatever else it knows. Where the feature makes an image better (sharpness), labels hold it as well: a
gap is a reason to look, not an error by itself (FiMi-RM, arXiv 2505.12843, reports both halves).
"""

from dataclasses import dataclass

import numpy as np

from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate, over_prompts

LEAST_PAIRS = 10
"""Of each half, below which nothing is said."""


@dataclass(frozen=True)
class SplitAccuracy:
    """more, less: accuracies on pairs whose better side has more, or less, of the feature, with how many they are."""

    more: Estimate
    less: Estimate
    gap: Estimate
    pairs: tuple[int, int]


def split_accuracy(correct: np.ndarray, difference: np.ndarray, prompts: np.ndarray) -> SplitAccuracy | None:
    """correct: 1, 1/2 or 0 of each decided pair, [n]. difference: of the feature, the better side's less the worse
    one's, [n]; pairs without one count in neither half. None where a half has fewer than LEAST_PAIRS."""
    halves = difference > 0, difference < 0
    if min(half.sum() for half in halves) < LEAST_PAIRS:
        return None
    groups = np.unique(prompts, return_inverse=True)[1]
    sums = np.array([[np.bincount(groups[half], values, groups.max() + 1)
                      for values in (correct[half], None)] for half in halves])  # [more or less, right or all, prompts]

    def gap(rows: np.ndarray) -> float:
        right, every = sums[:, 0, rows].sum(1), sums[:, 1, rows].sum(1)
        return float(np.subtract(*(right / np.maximum(every, 1))))

    more, less = (clustered_mean(correct[half], groups[half]) for half in halves)
    return SplitAccuracy(more, less, over_prompts(gap, groups.max() + 1), (int(halves[0].sum()), int(halves[1].sum())))
