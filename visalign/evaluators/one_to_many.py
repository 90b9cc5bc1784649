"""Is the right one of many the highest? One-to-many tests of a reward (RewardBench 2, arXiv 2506.01937; RewardMATH,
2410.01729).

Of each prompt some samples are right and the others wrong.

    accuracy@1        a right one has the highest score of all; equal scores are ordered by chance
    reciprocal rank   1 / the place of the best right one
    ties passed       of several right ones: min right > max wrong, and by more than max right - min right
    independent       a^n, how often one right one would come first if each of n wrong ones were beaten with the pair
                      accuracy a alone

Differs from RewardBench 2 in: its "Ties" counts prompts with one right answer as well, weighted; here one right answer
is what accuracy@1 is of.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from visalign.evaluators.reward_accuracy import clustered_mean, correctness
from visalign.evaluators.statistics import Estimate


@dataclass(frozen=True)
class OneToMany:
    """Means over prompts with intervals. samples: of a prompt, on average. chance: what constant scores would give;
    places: of the best right one, one a prompt, 1 the highest. ties: prompts with several right ones, of which `passed`
    is the share that passes (None: there are none)."""

    prompts: int
    samples: float
    accuracy: Estimate
    accuracy_by_chance: float
    reciprocal_rank: Estimate
    rank_by_chance: float
    pair_accuracy: Estimate
    independent: float
    ties: int
    passed: Estimate | None
    places: tuple[float, ...]


def one_to_many(scores: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> OneToMany:
    """Of each prompt the scores of its samples, larger is better, and which are right, some and not all of them.

    Raises ValueError for a prompt without right or without wrong ones, and for no prompt at all.
    """
    if not scores:
        raise ValueError("a one-to-many test needs at least one prompt")
    groups = [(np.asarray(each, np.float64)[of], np.asarray(each, np.float64)[~of])
              for each, of in zip(scores, map(np.asarray, right), strict=True)]
    if not all(len(good) and len(bad) for good, bad in groups):
        raise ValueError("every prompt needs right samples and wrong ones")
    flat = [(np.zeros(len(good)), np.zeros(len(bad))) for good, bad in groups]
    pairs = np.array([correctness((good[:, None] - bad).ravel(), np.ones(good.size * bad.size)).mean()
                      for good, bad in groups])
    several = [(good, bad) for good, bad in groups if len(good) > 1]

    def mean(values) -> Estimate:
        return clustered_mean(np.asarray(values, np.float64), np.arange(len(values)))

    return OneToMany(
        len(groups), float(np.mean([len(each) for each in scores])), mean([first_is_right(*each) for each in groups]),
        float(np.mean([first_is_right(*each) for each in flat])), mean([reciprocal_rank(*each) for each in groups]),
        float(np.mean([reciprocal_rank(*each) for each in flat])), mean(pairs),
        float(np.mean([pairs.mean() ** len(bad) for _, bad in groups])), len(several),
        mean([float(passes_ties(*each)) for each in several]) if several else None,
        tuple(1 + float((bad > good.max()).sum() + (bad == good.max()).sum() / (1 + (good == good.max()).sum()))
              for good, bad in groups))


def first_is_right(right: np.ndarray, wrong: np.ndarray) -> float:
    """The chance that a right one is the highest, where equal scores are ordered by chance."""
    top = max(right.max(), wrong.max())
    return float((right == top).sum() / ((right == top).sum() + (wrong == top).sum()))


def reciprocal_rank(right: np.ndarray, wrong: np.ndarray) -> float:
    """The mean of 1 / the place of the first right one, over all orders of equal scores."""
    best = right.max()
    above, same, mine = (wrong > best).sum(), int((wrong == best).sum()), int((right == best).sum())
    # `before` of the wrong ones among the equal come before the first of the right ones
    return float(sum(comb(same + mine - before - 1, mine - 1) / comb(same + mine, mine) / (above + before + 1)
                     for before in range(same + 1)))


def passes_ties(right: np.ndarray, wrong: np.ndarray) -> bool:
    """Whether all right ones lie above all wrong ones, by more than they lie apart."""
    gap = right.min() - wrong.max()
    return bool(gap > 0 and gap > right.max() - right.min())
