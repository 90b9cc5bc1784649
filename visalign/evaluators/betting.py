"""The mean of values in [0, 1] that arrive one by one, with an interval that holds at every look: the hedged capital
of Waudby-Smith and Ramdas 2023 (arXiv 2010.09686).

    K+_n(m) = prod_i (1 + l_i (x_i - m)),   K-_n(m) = prod_i (1 - l_i (x_i - m)),   the interval: m with max(K+, K-) / 2
    below 1 / error

l_i = sqrt(2 log(2 / error) / (s^2 i log(i + 1))) knows only the values before x_i, with mean and variance s^2 that
begin at 1/2 and 1/4; bets are cut where they could lose more than a half. Whoever bets against the true mean cannot
expect to gain, so all intervals hold together with a probability of 95 %, and may be intersected.

Differs from the paper in: the interval is read off a grid of m, to which it is rounded outwards.
"""

import numpy as np
from numpy.typing import ArrayLike

from visalign.evaluators.looks import ERROR
from visalign.evaluators.statistics import Estimate

GRID = 1000
BOLDEST = 0.5


def running_mean(values: ArrayLike, error: float = ERROR) -> Estimate:
    """The mean so far, within the intersection of all intervals so far. Raises ValueError for values outside [0, 1].
    """
    given = np.asarray(values, np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise ValueError("values of a running mean lie in [0, 1]")
    if not len(given):
        return Estimate(0.5, 0.0, 1.0)
    grid = np.linspace(0, 1, GRID + 1)
    up, down, alive = np.zeros_like(grid), np.zeros_like(grid), np.ones(len(grid), bool)
    total, squares = 0.5, 0.25
    limit = -np.log(error) + np.log(2)
    for i, value in enumerate(given, start=1):
        mean, variance = total / i, squares / i
        bet = (2 * np.log(2 / error) / (variance * i * np.log(i + 1))) ** 0.5
        up += np.log1p(np.minimum(bet, BOLDEST / np.maximum(grid, 1e-9)) * (value - grid))
        down += np.log1p(-np.minimum(bet, BOLDEST / np.maximum(1 - grid, 1e-9)) * (value - grid))
        alive &= np.maximum(up, down) < limit
        total += value
        squares += (value - total / (i + 1)) ** 2
    left = grid[alive]
    mean = float(given.mean())
    if not len(left):  # values that no single mean explains, as of voters who changed their minds
        return Estimate(mean, 0.0, 1.0)
    step = 1 / GRID
    return Estimate(mean, float(max(0.0, left[0] - step)), float(min(1.0, left[-1] + step)))
