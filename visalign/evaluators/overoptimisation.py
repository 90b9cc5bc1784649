"""Over-optimisation: reward against distance from the base model, where it peaks, and what best-of-n would give.

Distance is d = sqrt(KL) (Gao et al. 2022). Fits, linear in alpha and beta and through the origin:
    rl     R = d (alpha - beta log d)      peak at d = exp(alpha / beta - 1)
    bon    R = d (alpha - beta d)          peak at d = alpha / (2 beta); also used for direct alignment
R is the change of a reward from the base, one value a checkpoint and prompt.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from visalign.evaluators.statistics import LEVEL

FORMS = ("rl", "bon")


@dataclass(frozen=True)
class OveroptimisationFit:
    """alpha, beta of one form; peak: the d of highest reward (None where the curve never turns); error: root mean
    square.

    peak_low, peak_high: 95 % interval over prompts, infinite where resampled curves do not turn.
    """

    form: str
    alpha: float
    beta: float
    error: float
    peak: float | None
    peak_low: float
    peak_high: float

    def at(self, d: np.ndarray) -> np.ndarray:
        return _design(np.asarray(d, np.float64), self.form) @ np.array([self.alpha, self.beta])


def best_of_n_kl(n: int) -> float:
    """KL of the best of n samples from the base: log n - (n - 1) / n."""
    return float(np.log(n) - (n - 1) / n)


def best_of_n(chooser: np.ndarray, scores: np.ndarray, n: int) -> np.ndarray:
    """Expected `scores` [P, K] of the best by `chooser` [P, K] among n random ones of the K, per prompt [P].

    Exact: the i-th lowest of K is the best of n with probability C(i - 1, n - 1) / C(K, n). Ties keep their order.
    """
    count = chooser.shape[1]
    if not 1 <= n <= count:
        raise ValueError(f"best of {n} needs at least {n} generations of each prompt, there are {count}")
    i = np.arange(1, count + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = np.where(i >= n, np.exp(_log_choose(i - 1, n - 1) - _log_choose(count, n)), 0.0)
    order = np.argsort(chooser, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1) @ chance


def _log_choose(n, k) -> np.ndarray:
    n = np.asarray(n, np.float64)
    return np.where(n >= k, gammaln(n + 1) - gammaln(k + 1) - gammaln(np.maximum(n - k, 0) + 1), -np.inf)


def _design(d: np.ndarray, form: str) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        second = np.where(d > 0, -d * np.log(np.where(d > 0, d, 1.0)), 0.0) if form == "rl" else -d**2
    return np.stack([d, second], -1)


def _solve(d: np.ndarray, reward: np.ndarray, form: str) -> np.ndarray:
    return np.linalg.lstsq(_design(d, form), reward, rcond=None)[0]


def peak_of(alpha: float, beta: float, form: str) -> float | None:
    """None where the fitted curve has no maximum at d > 0."""
    if form == "bon":
        return alpha / (2 * beta) if alpha > 0 and beta > 0 else None
    return float(np.exp(alpha / beta - 1)) if beta > 0 else None


def fit_overoptimisation(d: np.ndarray, rewards: np.ndarray, form: str, seed: int = 0,
                         resamples: int = 1000) -> OveroptimisationFit:
    """Fit the mean over prompts of rewards [C, P] (change from the base) at distances d [C]; d = 0 is ignored.

    Raises ValueError for fewer than three checkpoints away from the base.
    """
    d, rewards = np.asarray(d, np.float64), np.asarray(rewards, np.float64)
    away = d > 0
    if away.sum() < 3:
        raise ValueError(f"{int(away.sum())} checkpoints away from the base; a fit of two numbers needs at least 3")
    d, rewards = d[away], rewards[away]
    alpha, beta = _solve(d, rewards.mean(1), form)
    error = float(np.sqrt(np.mean((_design(d, form) @ [alpha, beta] - rewards.mean(1)) ** 2)))
    rng = np.random.default_rng(seed)
    count = rewards.shape[1]
    drawn = [_solve(d, rewards[:, rng.integers(0, count, count)].mean(1), form) for _ in range(resamples)]
    peaks = [peak_of(float(alpha), float(beta), form) for alpha, beta in drawn]
    low, high = map(float, np.quantile([np.inf if peak is None else peak for peak in peaks],
                                       [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest"))
    return OveroptimisationFit(form, float(alpha), float(beta), error, peak_of(alpha, beta, form), low, high)


def past_peak(fitted: OveroptimisationFit, last: float) -> str:
    """`yes`, `no` or `unclear`: whether a run at distance `last` is past the peak, by the peak's interval."""
    if last > fitted.peak_high:
        return "yes"
    return "no" if last < fitted.peak_low else "unclear"
