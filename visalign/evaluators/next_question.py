"""Which pair to ask a person about next: the one on which the people that they may be disagree.

    m_s = r_s(a) - r_s(b)     of each draw s of their latent (VPL, arXiv 2408.10075), all of one weight, or of each
                              prototype with the share that it has in them (PAL, arXiv 2406.08469)
    variance      sum_s w_s (m_s - m)^2,  m = sum_s w_s m_s
    information   H( sum_s w_s s(m_s) ) - sum_s w_s H( s(m_s) )

The information is what the answer is expected to tell of who the person is, in nats (mutual information; Houlsby et
al. 2011, arXiv 1112.5745), H the entropy of an answer of that chance and s the logistic function. Both are 0 where all
agree and where it is known who the person is. They differ on a pair that all answer alike, some by a margin of 3 and
some by one of 9: of large variance, though its answer is known. Pairs are chosen by the variance: where scripts/
simulate_questions.py compares the two on a trained encoder, whose density does not narrow with every answer, the
information asks the same again and again, and what was answered before is heard less and less.
"""

from collections.abc import Callable

import numpy as np
import scipy

Gain = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""From margins [S, ...] over S people that somebody may be, and the weights of those, with sum 1 over S, in a shape
that broadcasts to the margins' (None: all alike), to what each pair teaches, [...]."""


def margin_variance(margins: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The variance above; see `Gain`."""
    return _mean((margins - _mean(margins, weights))**2, weights)


def answer_information(margins: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The information above, at most log 2; see `Gain`."""
    chance = scipy.special.expit(margins)
    return np.maximum(_entropy(_mean(chance, weights)) - _mean(_entropy(chance), weights), 0)


def _mean(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return values.mean(0) if weights is None else (weights * values).sum(0)


def _entropy(chance: np.ndarray) -> np.ndarray:
    return scipy.special.entr(chance) + scipy.special.entr(1 - chance)


def questions_by_gain(margins: np.ndarray, weights: np.ndarray | None = None,
                      gain: Gain = margin_variance) -> list[int]:
    """Places of pairs, the one that teaches most first, from margins [S, E, N, D] of E ensemble members, each of which
    knows the person in its own way, and D dimensions: the mean of their gains counts. weights: [S, E, 1, D]."""
    return np.argsort(-gain(margins, weights).mean((0, 2)), kind="stable").tolist()
