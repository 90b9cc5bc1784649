"""What a reward's scores say of the oracle's labels: a policy's mean label from a few labels and many scores.

    f = isotonic regression of label Y on score S, over the labelled samples; f^(-k) without the prompts of fold k
    or, in two stages, of Y on an index: least squares of Y on a cubic spline of S and on covariates; taken where there
    are any, and where its squared error on held-out folds is less by more than a standard error
    psi   = mean f(S) over the policy's samples
    psi_a = psi + mean over the labelled samples of ( Y - f^(-fold)(S) )      labels: a random slice of these samples
    Var   = Var_prompts(psi) + Var_cal,   Var_cal = (K - 1) / K sum_k (psi^(-k) - mean psi^(-k))^2

Var_prompts counts whole prompts; Var_cal is what the labels, being few, add (a jackknife over folds of whole prompts).
Source: CJE (Landesberg et al.), AutoCal-R for f and OUA for Var_cal.

Differs from the paper in: t has the degrees of freedom of Welch and Satterthwaite, where min(prompts - 1, K - 1) covers
too much once Var_cal is small; psi_a takes its variance from its own terms, in which the error of f cancels; the index
is not ranked before the isotonic regression, which sees its order only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import ArrayLike

from visalign.evaluators.statistics import LEVEL, Estimate, TooFew

FOLDS = 5
LEAST_LABELS, FEW_LABELS, PER_FOLD = 4, 10, 2
KNOTS = 3
"""Of the spline, within the labelled scores."""
MOST_OUTSIDE = 0.05
"""The share of a policy's scores that may lie outside the labelled ones, where f is only carried on flat."""

LabelCurve = Callable[[np.ndarray], np.ndarray]


class InvertedReward(ValueError):
    """Labels do not rise with the reward's scores anywhere."""


class OutsideLabels(ValueError):
    """Too many scores of a policy lie where none is labelled; share: how many."""

    def __init__(self, share: float, low: float, high: float):
        super().__init__(f"{100 * share:.0f} % of the scores lie outside {low:.4g} to {high:.4g}, the range of the "
                         f"labelled ones (allowed: {100 * MOST_OUTSIDE:g} %); label some of these samples")
        self.share = share


@dataclass(frozen=True)
class CalibratedMean:
    """estimate: the mean label with its interval. sampling, calibration: standard errors of what the prompts and the
    labels leave open. outside: share of scores beyond the labelled ones. few: fewer labels than the interval's
    approximation is good for."""

    estimate: Estimate
    sampling: float
    calibration: float
    outside: float
    few: bool


def isotonic_curve(scores: ArrayLike, labels: ArrayLike) -> LabelCurve:
    """The rising curve through labels by least squares: linear between labelled scores, flat beyond them.

    Equal scores count as one with their labels' mean, so that the mean over the labelled samples is exactly theirs.
    """
    places, inverse, counts = np.unique(np.asarray(scores, np.float64), return_inverse=True, return_counts=True)
    means = np.bincount(inverse, np.asarray(labels, np.float64)) / counts
    heights = scipy.optimize.isotonic_regression(means, weights=counts).x
    return lambda s: np.interp(s, places, heights)


def two_stage_curve(inputs: np.ndarray, labels: np.ndarray) -> LabelCurve:
    """The isotonic curve over an index of scores and covariates, inputs [m, 1 + c]; scores count as within the range
    of the labelled ones."""
    low, high = inputs[:, 0].min(), inputs[:, 0].max()
    knots = np.quantile(inputs[:, 0], np.linspace(0, 1, KNOTS + 2)[1:-1])
    centre, size = inputs.mean(0), np.maximum(inputs.std(0), 1e-12)

    def basis(given: np.ndarray) -> np.ndarray:
        scores = np.clip(given[:, 0], low, high)
        powers = [((scores - centre[0]) / size[0]) ** power for power in range(4)]
        bends = [np.maximum((scores - knot) / size[0], 0) ** 3 for knot in knots]
        return np.stack([*powers, *bends, *((given - centre) / size)[:, 1:].T], 1)

    weights = np.linalg.lstsq(basis(inputs), labels, rcond=1e-6)[0]
    rising = isotonic_curve(basis(inputs) @ weights, labels)
    return lambda given: rising(basis(given) @ weights)


def one_stage_curve(inputs: np.ndarray, labels: np.ndarray) -> LabelCurve:
    """The isotonic curve over the scores alone, inputs [m, 1 + c]."""
    rising = isotonic_curve(inputs[:, 0], labels)
    return lambda given: rising(given[:, 0])


def _inputs(scores: ArrayLike) -> np.ndarray:
    found = np.asarray(scores, np.float64)
    return found[:, None] if found.ndim == 1 else found


class RewardCalibration:
    """A reward's scores [m] against labels [m] of the samples of `prompts` [m].

    Scores may be [m, 1 + c], with covariates behind the score, such as an answer's length; so then are those of the
    policies. two_stage: which curve was taken.

    Raises TooFew for fewer than 4 labels, or of fewer than 2 prompts, InvertedReward, and ValueError for a label or
    score that is not finite.
    """

    def __init__(self, scores: ArrayLike, labels: ArrayLike, prompts: ArrayLike, folds: int = FOLDS, seed: int = 0):
        self.scores, self.labels = _inputs(scores), np.asarray(labels, np.float64)
        self.prompts = np.asarray(prompts)
        if not len(self.scores) == len(self.labels) == len(self.prompts):
            raise ValueError(f"{len(self.scores)} scores, {len(self.labels)} labels and {len(self.prompts)} prompts: "
                             "there must be one of each for every labelled sample")
        if not (np.isfinite(self.scores).all() and np.isfinite(self.labels).all()):
            raise ValueError("labels and the scores of labelled samples must be finite")
        if len(self.labels) < LEAST_LABELS:
            raise TooFew(f"a calibration needs at least {LEAST_LABELS} labels, and there are {len(self.labels)}")
        names, inverse = np.unique(self.prompts, return_inverse=True)
        if len(names) < 2:
            raise TooFew("a calibration needs labels of at least 2 prompts")
        self.fold = folds_of_prompts(inverse, min(folds, len(names), len(self.labels) // PER_FOLD), seed)
        if np.ptp(one_stage_curve(self.scores, self.labels)(self.scores)) == 0:
            raise InvertedReward("labels do not rise with the scores anywhere: the reward is inverted, or says nothing")
        plain, staged = self._without(one_stage_curve), self._without(two_stage_curve)
        self.two_stage = self.scores.shape[1] > 1 or self._clearly_better(staged, plain)
        self.without = staged if self.two_stage else plain
        self.curve = (two_stage_curve if self.two_stage else one_stage_curve)(self.scores, self.labels)

    def _without(self, fit: Callable[[np.ndarray, np.ndarray], LabelCurve]) -> list[LabelCurve]:
        return [fit(self.scores[self.fold != k], self.labels[self.fold != k]) for k in range(self.fold.max() + 1)]

    def _clearly_better(self, first: list[LabelCurve], second: list[LabelCurve]) -> bool:
        """Whether the squared error on held-out folds is less by more than its standard error over prompts."""
        less = self.residuals(second) ** 2 - self.residuals(first) ** 2
        return bool(less.mean() > part_of_mean(less, self.prompts)[0] ** 0.5)

    def outside(self, scores: ArrayLike) -> float:
        """The share of scores beyond the labelled ones."""
        mine, known = _inputs(scores)[:, 0], self.scores[:, 0]
        return float(((mine < known.min()) | (mine > known.max())).mean())

    def residuals(self, without: list[LabelCurve] | None = None) -> np.ndarray:
        """Labels less the curve that has not seen their prompt, [m]; without: by fold, the curve without it."""
        curves = self.without if without is None else without
        return self.labels - np.select([self.fold == k for k in range(len(curves))],
                                       [curve(self.scores) for curve in curves])

    def mean(self, scores: ArrayLike, prompts: ArrayLike, drawn: np.ndarray | None = None) -> CalibratedMean:
        """The mean label of a policy by its scores [n] of the samples of `prompts` [n].

        drawn [m]: which of the labelled samples were drawn at random from just these; the estimate then is psi_a,
        unbiased whatever the curve is. Raises TooFew for fewer than 2 prompts, of `drawn` ones too, OutsideLabels, and
        ValueError for a score that is not finite.
        """
        own = None if drawn is None else self._drawn(drawn)
        scores, prompts, share = self._within(scores, prompts)
        level = self.curve(scores)
        value, parts = float(level.mean()), [part_of_mean(level, prompts)]
        if own is None:
            parts.append(fold_jackknife([float(curve(scores).mean()) for curve in self.without]))
        else:
            value += float(own[0].mean())
            parts.append(part_of_mean(*own))
        return self._told(value, parts, share)

    def difference(self, first: ArrayLike, first_prompts: ArrayLike, second: ArrayLike, second_prompts: ArrayLike,
                   drawn: tuple[np.ndarray, np.ndarray] | None = None) -> CalibratedMean:
        """The mean label of a first policy less that of a second, prompts that both have counted as pairs; drawn: as
        for `mean`, of each.

        Raises as `mean` does, which this needs as well: beyond the labels their order may hold, its size does not.
        """
        first, first_prompts, share = self._within(first, first_prompts)
        second, second_prompts, other = self._within(second, second_prompts)
        levels = self.curve(first), self.curve(second)
        value = float(levels[0].mean() - levels[1].mean())
        parts = [_part_of_difference(levels, (first_prompts, second_prompts))]
        if drawn is None:
            parts.append(fold_jackknife([float(curve(first).mean() - curve(second).mean()) for curve in self.without]))
        else:
            residuals, of = zip(*map(self._drawn, drawn), strict=True)
            value += float(residuals[0].mean() - residuals[1].mean())
            parts.append(_part_of_difference(residuals, of))
        return self._told(value, parts, max(share, other))

    def _drawn(self, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Residuals and prompts of the labelled samples that were drawn from a policy's."""
        if len(np.unique(self.prompts[drawn])) < 2 or drawn.sum() < LEAST_LABELS:
            raise TooFew(f"its own samples have {int(drawn.sum())} labels, and as a random part of them it takes at "
                         f"least {LEAST_LABELS}, of at least 2 prompts")
        return self.residuals()[drawn], self.prompts[drawn]

    def _told(self, value: float, parts: list[tuple[float, float]], outside: float) -> CalibratedMean:
        return CalibratedMean(t_interval(value, parts), parts[0][0] ** 0.5, parts[1][0] ** 0.5, outside,
                              len(self.labels) < FEW_LABELS)

    def _within(self, scores: ArrayLike, prompts: ArrayLike) -> tuple[np.ndarray, np.ndarray, float]:
        scores, prompts = _inputs(scores), np.asarray(prompts)
        if scores.shape[1:] != self.scores.shape[1:]:
            raise ValueError(f"there are {scores.shape[1] - 1} covariates, and those of the labelled samples are "
                             f"{self.scores.shape[1] - 1}")
        if not np.isfinite(scores).all():
            raise ValueError(f"{(~np.isfinite(scores).all(1)).sum()} of {len(scores)} scores are not finite")
        share = self.outside(scores)
        if share > MOST_OUTSIDE:
            raise OutsideLabels(share, self.scores[:, 0].min(), self.scores[:, 0].max())
        if len(np.unique(prompts)) < 2:
            raise TooFew("a calibrated mean needs samples of at least 2 prompts")
        return scores, prompts, share


def folds_of_prompts(prompt: np.ndarray, folds: int, seed: int = 0) -> np.ndarray:
    """The fold of every sample, whole prompts in one and folds of about equal size; prompt: numbers from 0."""
    sizes = np.bincount(prompt)
    order = np.random.default_rng(seed).permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    fold_of, filled = np.zeros(len(sizes), int), np.zeros(folds, int)
    for each in order:
        fold_of[each] = filled.argmin()
        filled[fold_of[each]] += sizes[each]
    return fold_of[prompt]


def _influence(values: np.ndarray) -> np.ndarray:
    """What each value adds to their mean's error."""
    return (values - values.mean()) / len(values)


def part_of_mean(values: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    """The variance of the mean of values whose prompts are independent, and its degrees of freedom."""
    return part_of_sum(_influence(values), prompts)


def _part_of_difference(values: tuple[np.ndarray, ...], prompts: tuple[np.ndarray, ...]) -> tuple[float, float]:
    """As part_of_mean, of the first values' mean less the second's."""
    return part_of_sum(np.concatenate([_influence(values[0]), -_influence(values[1])]), np.concatenate(prompts))


def part_of_sum(influence: np.ndarray, prompts: np.ndarray) -> tuple[float, float]:
    """The variance of a sum of errors around 0 whose prompts are independent, and its degrees of freedom."""
    _, inverse = np.unique(prompts, return_inverse=True)
    sums = np.bincount(inverse, influence)
    return float(len(sums) / (len(sums) - 1) * (sums ** 2).sum()), len(sums) - 1.0


def fold_jackknife(without: list[float]) -> tuple[float, float]:
    """The variance of an estimate, of which these are the values without each fold, and its degrees of freedom."""
    values = np.asarray(without)
    return float((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum()), len(values) - 1.0


def t_interval(value: float, parts: list[tuple[float, float]]) -> Estimate:
    """An interval of Student's t around a value whose variance is a sum of parts with their degrees of freedom."""
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return Estimate(value, value, value)
    freedom = variance ** 2 / sum(part ** 2 / freedom for part, freedom in parts)
    half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)) * variance ** 0.5
    return Estimate(value, value - half, value + half)
