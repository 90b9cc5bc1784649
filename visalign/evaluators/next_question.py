"""Which pair to ask a person about next: the one on which the people that they may be disagree most.

    gain(a, b) = sum_s w_s (m_s - m)^2,   m_s = r_s(a) - r_s(b),   m = sum_s w_s m_s

is the variance of the margin over who the person may be: rewards r_s for each draw s of their latent (VPL, arXiv
2408.10075, section on active learning), all of one weight, or for each prototype with the share that it has in them
(PAL, arXiv 2406.08469). It is 0 where all agree, however clear the pair is, and where it is known who the person is.
A margin is in log-odds, so that a variance of 1 moves an even chance to 73 or 27 %.
"""

import numpy as np


def margin_variance(margins: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Variances [...] of margins [S, ...] over S people that somebody may be. weights: of each, with sum 1 over S, in a
    shape that broadcasts to the margins' (None: all alike)."""
    if weights is None:
        return margins.var(0)
    mean = (weights * margins).sum(0)
    return (weights * (margins - mean)**2).sum(0)


def questions_by_gain(margins: np.ndarray, weights: np.ndarray | None = None) -> list[int]:
    """Places of pairs, the one that teaches most first, from margins [S, E, N, D] of E ensemble members, each of which
    knows the person in its own way, and D dimensions: the mean of their variances counts. weights: [S, E, 1, D]."""
    gain = margin_variance(margins, weights).mean((0, 2))
    return np.argsort(-gain, kind="stable").tolist()
