"""What a reward's features hold: a linear probe of each label against one of shuffled labels (MRMBench, arXiv
2511.12464).

    W, b = argmin sum_i weight_i CE(softmax(W h_i + b), y_i) + |W|^2 / 2      h standardised on the samples learnt from
    weight_i = n / (C n_class)                                                 so that all C classes weigh alike
    accuracy = mean over classes of the share told right, on folds of whole prompts that were not learnt from
    selectivity = accuracy - accuracy of the same probe on shuffled labels     (Hewitt and Liang 2019, control tasks)

Labels that are the same in all samples of each prompt are shuffled over prompts, others over samples.

Differs from the paper in: regularised logistic regression in place of an epoch of gradient steps; balanced accuracy;
the control.
"""

from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import ArrayLike

from visalign.evaluators.calibration import folds_of_prompts
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate, TooFew, over_prompts

PROBE_FOLDS, SHUFFLES, RIDGE = 5, 5, 1.0


@dataclass(frozen=True)
class Probe:
    """accuracy: balanced, on held-out prompts; its interval is of the prompts asked about, not of those learnt from.
    control: of shuffled labels, the mean over SHUFFLES of them; control_range: the least and the most, which also show
    what learning from other prompts changes. recall {class: share told right}. left_out: classes of too few prompts."""

    samples: int
    prompts: int
    accuracy: Estimate
    control: float
    control_range: tuple[float, float]
    recall: dict[str, float]
    left_out: tuple[str, ...]

    @property
    def selectivity(self) -> float:
        return self.accuracy.value - self.control

    @property
    def chance(self) -> float:
        return 1 / len(self.recall)


class LinearProbe:
    """Multinomial logistic regression of classes [n], numbers from 0, on features [n, d]."""

    def __init__(self, features: np.ndarray, classes: np.ndarray, count: int, ridge: float = RIDGE):
        self.centre, self.size = features.mean(0), np.maximum(features.std(0), 1e-12)
        x, truth = self._standard(features), np.eye(count)[classes]
        weight = len(x) / (np.maximum(truth.sum(0), 1) * (truth.sum(0) > 0).sum())[classes]

        def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
            table = flat.reshape(x.shape[1], count)
            logits = x @ table
            log_sum = scipy.special.logsumexp(logits, axis=1, keepdims=True)
            pull = weight[:, None] * (np.exp(logits - log_sum) - truth)
            value = (weight * (log_sum[:, 0] - (logits * truth).sum(1))).sum() + ridge / 2 * (table[:-1] ** 2).sum()
            slope = x.T @ pull
            slope[:-1] += ridge * table[:-1]
            return float(value), slope.ravel()

        found = scipy.optimize.minimize(loss, np.zeros(x.shape[1] * count), jac=True, method="L-BFGS-B",
                                        options={"maxiter": 500})
        self.table = found.x.reshape(x.shape[1], count)

    def _standard(self, features: np.ndarray) -> np.ndarray:
        return np.concatenate([(features - self.centre) / self.size, np.ones((len(features), 1))], 1)

    def classes(self, features: np.ndarray) -> np.ndarray:
        """The likeliest class of each, [n]."""
        return (self._standard(features) @ self.table).argmax(1)


def probe(features: ArrayLike, labels: ArrayLike, prompts: ArrayLike, seed: int = 0) -> Probe:
    """Features [n, d] of samples with labels [n], texts, of `prompts` [n].

    Classes of fewer than 5 prompts are left out. Raises TooFew where fewer than two are left, and ValueError for
    features that are not finite.
    """
    features, labels, prompts = np.asarray(features, np.float64), np.asarray(labels, str), np.asarray(prompts)
    if not np.isfinite(features).all():
        raise ValueError(f"{(~np.isfinite(features).all(1)).sum()} of {len(features)} features are not finite")
    names = np.unique(labels)
    kept = [name for name in names if len(np.unique(prompts[labels == name])) >= PROBE_FOLDS]
    if len(kept) < 2:
        raise TooFew(f"a probe needs at least 2 labels with samples of at least {PROBE_FOLDS} prompts each, and there "
                     f"{'is' if len(kept) == 1 else 'are'} {len(kept)}")
    used = np.isin(labels, kept)
    features, labels, prompts = features[used], labels[used], prompts[used]
    prompt = np.unique(prompts, return_inverse=True)[1]
    classes = np.searchsorted(np.array(kept), labels)
    fold = folds_of_prompts(prompt, PROBE_FOLDS, seed)
    said, rng = _held_out(features, classes, fold, len(kept)), np.random.default_rng(seed)
    control = []
    for _ in range(SHUFFLES):
        other = shuffled(classes, prompt, rng)
        control.append(_balanced(*_counts(_held_out(features, other, fold, len(kept)), other, prompt, len(kept))))
    right, total = _counts(said, classes, prompt, len(kept))
    recall = right.sum(0) / total.sum(0)
    if (right == total).all():  # a bootstrap would have no width
        accuracy = clustered_mean(np.ones(len(right)), np.arange(len(right)))
    else:
        accuracy = over_prompts(lambda rows: _balanced(right[rows], total[rows]), len(right))
    return Probe(len(classes), len(right), accuracy, float(np.mean(control)), (min(control), max(control)),
                 dict(zip(kept, map(float, recall), strict=True)), tuple(map(str, names[~np.isin(names, kept)])))


def shuffled(classes: np.ndarray, prompt: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The classes in another order: of prompts, numbers from 0, where each has but one class, else of samples."""
    first = np.unique(prompt, return_index=True)[1]
    if (classes == classes[first][prompt]).all():
        return rng.permutation(classes[first])[prompt]
    return rng.permutation(classes)


def _held_out(features: np.ndarray, classes: np.ndarray, fold: np.ndarray, count: int) -> np.ndarray:
    """What probes say of the prompts that they have not learnt from, [n]."""
    said = np.empty(len(classes), int)
    for k in range(fold.max() + 1):
        here = fold == k
        said[here] = LinearProbe(features[~here], classes[~here], count).classes(features[here])
    return said


def _counts(said: np.ndarray, classes: np.ndarray, prompt: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples told right, and all, by prompt and class, [P, C]."""
    shape = prompt.max() + 1, count
    place = prompt * count + classes
    right, total = (np.bincount(place, weights, shape[0] * count).reshape(shape) for weights in (said == classes, None))
    return right, total


def _balanced(right: np.ndarray, total: np.ndarray) -> float:
    """The mean over classes that occur of the share told right; [P, C]."""
    here = total.sum(0) > 0
    return float((right.sum(0)[here] / total.sum(0)[here]).mean())
