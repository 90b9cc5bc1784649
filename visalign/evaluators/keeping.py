"""Which measurement of a run is kept (`eval.keep_best`), and how sure it is that it is better than the untrained model.

    kept       the best guess: the later one where its mean reward is higher, over the prompts that both know;
    but not    where its gain is not clear and its loss of diversity is: a clear price is paid for a clear gain alone
    better     than the untrained model: clear, where the interval of the difference lies above 0

What is clear is so at all looks of the run together. Look k has `error`, its share of 5 % (looks.py). Half is that of
its difference from the start; the other half that of its differences from every measurement before it, in reward and
diversity, since which of them was kept is a choice made on the same prompts:

    start: error / 2        each of the k before it: error / (4 k) for the reward, as much for the diversity

So the interval of the one that is kept in the end holds although it is the best of many.
"""

from dataclasses import dataclass

import numpy as np

from visalign.evaluators.looks import OneOfMany
from visalign.evaluators.prompt_metrics import PromptMetrics, paired
from visalign.evaluators.statistics import Estimate, unknown
from visalign.evaluators.verdict import DIVERSITY


@dataclass(frozen=True)
class Replacement:
    """A later measurement against the kept one. taken: whether it is kept from now on. gain: of the mean reward.
    diversity: relative change of it, None where it is not known."""

    taken: bool
    gain: Estimate
    diversity: Estimate | None

    @property
    def too_dear(self) -> bool:
        """Whether it would have been taken but for its diversity."""
        return self.gain.value > 0 and not self.taken


def gain_over_start(start: PromptMetrics, later: PromptMetrics, reward: str, error: float) -> Estimate:
    """Of the mean of `reward`, at one look. error: what this look may spend."""
    return _gain(start, later, reward, OneOfMany(error), 1 / 2)


def replacement(kept: PromptMetrics, later: PromptMetrics, reward: str, error: float, earlier: int) -> Replacement:
    """Whether a later measurement takes the place of the kept one. error: what this look may spend. earlier: how many
    measurements there were before it."""
    intervals, share = OneOfMany(error), 1 / (4 * earlier)
    gain = _gain(kept, later, reward, intervals, share)
    diversity = None
    if DIVERSITY in kept.values and len((both := paired(kept, later, DIVERSITY))[0]):
        diversity = intervals.change(*both, share)
    higher = gain.value > 0 or not _knows(kept, reward) and _knows(later, reward)
    too_dear = diversity is not None and diversity.high < 0 and gain.low <= 0
    return Replacement(higher and not too_dear, gain, diversity)


def _gain(first: PromptMetrics, later: PromptMetrics, reward: str, intervals: OneOfMany, share: float) -> Estimate:
    before, now = paired(first, later, f"reward/{reward}")
    return intervals.mean(now - before, share) if len(before) else unknown(0.0)


def _knows(found: PromptMetrics, reward: str) -> bool:
    return bool(np.isfinite(found.values[f"reward/{reward}"]).any())
