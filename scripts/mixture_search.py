"""Bilevel search for the weights of a reward mixture: the policy that is trained on it should please somebody else.

    outer   max_w J( theta(w) )        J: a trusted reward that is never in the mixture, on held-out prompts
    inner   theta(w) = a few epochs of online training on sum_k w_k A_k, from the same snapshot and the same seeds
    step    log w <- log w + rate mean_j ( J(w e^{s e_j}) - J(w e^{-s e_j}) ) / (2 s) e_j,   e_j normal, sum_k w_k = 1

PARL: Chakraborty et al. 2023, arXiv 2308.02585 (its abstract; the algorithm is derived): the outer gradient is by
evolution strategies, since the samples that J sees depend on w through all of the inner training.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def simplex(log_weights: Tensor) -> Tensor:
    """Weights [K] that sum to 1."""
    return log_weights.softmax(0)


def outer_step(log_weights: Tensor, score: Callable[[Tensor], float], rng: torch.Generator, *, scale: float = 0.5,
               rate: float = 1.0, pairs: int = 1) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """The next log weights [K], and what each tried weights [K] scored.

    score: J of weights. scale: s. Equal scores give no step.
    """
    tried, slope = [], torch.zeros_like(log_weights)
    for _ in range(pairs):
        # a common factor changes nothing, so none is drawn
        direction = torch.randn(log_weights.shape, generator=rng, dtype=log_weights.dtype)
        direction = direction - direction.mean()
        scores = []
        for sign in (1, -1):
            weights = simplex(log_weights + sign * scale * direction)
            scores.append(score(weights))
            tried.append((weights, scores[-1]))
        slope += (scores[0] - scores[1]) / (2 * scale) * direction
    return log_weights + rate * slope / pairs, tried
