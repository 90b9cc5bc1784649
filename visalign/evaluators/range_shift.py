"""How far a reward's scores of one model lie from those of another, where it is known what they are worth.

    distance = max_x | F_base(x) - F_model(x) |     Kolmogorov and Smirnov's, of the scores of all samples
    chance   = its 95 % quantile where, prompt by prompt, a coin says which model a prompt's samples are of
    outside  = share of the model's scores below the base's lowest or above its highest

A calibration (calibration.py) that was fitted to the base's samples says nothing of scores outside them.
"""

from typing import NamedTuple

import numpy as np

from visalign.evaluators.statistics import LEVEL

SWAPS = 500


class RangeShift(NamedTuple):
    """All three from 0 to 1; chance is NaN for a single prompt."""

    distance: float
    chance: float
    outside: float


def range_shift(base: np.ndarray, model: np.ndarray, seed: int = 0, swaps: int = SWAPS) -> RangeShift | None:
    """Scores [P, K] of the same prompts, NaN where there is none; prompts without a score of both are left out.

    None where none is left.
    """
    both = np.stack([base, model])
    both = both[:, np.isfinite(both).any(2).all(0)]
    if not both.size:
        return None
    known = np.isfinite(both)
    values, (side, prompt, _) = both[known], np.nonzero(known)
    order = np.argsort(values, kind="stable")
    side, prompt, values = side[order], prompt[order], values[order]
    ends = np.append(np.diff(values) != 0, True)
    turned = np.random.default_rng(seed).integers(0, 2, (swaps, both.shape[1]))
    chance = float("nan") if both.shape[1] < 2 else float(np.quantile(
        [_distance(side ^ turn[prompt], ends) for turn in turned], LEVEL))
    mine = values[side == 0]
    outside = (values[side == 1] < mine[0]) | (values[side == 1] > mine[-1])
    return RangeShift(_distance(side, ends), chance, float(outside.mean()))


def _distance(side: np.ndarray, ends: np.ndarray) -> float:
    """Of samples in the order of their scores; side: which model's, 0 or 1. ends: the last of equal scores."""
    shares = [np.cumsum(side == each) / max(1, (side == each).sum()) for each in (0, 1)]
    return float(np.abs(shares[0] - shares[1])[ends].max())
