"""Gradient balance over several rewards: one update that harms none of them (MARBLE, Zhao et al. 2026, arXiv
2605.06507).

    g_k     = gradient of the loss whose advantages are reward k's alone,   gh_k = g_k / |g_k|
    alpha   = argmin over the simplex of |sum_k alpha_k gh_k|^2
    d       = sum_k alpha_k gh_k  mean_k |g_k|,   gh_k . d >= |d|^2 / mean_k |g_k| for every k
    average <- decay average + (1 - decay) alpha

d is learnt from at a probe, one update of `every`. The others learn from A = sum_k average_k A_k in one backward pass:
where the loss is affine in the advantage its gradient is exactly sum_k average_k g_k (proposition 1). The gradient of
what no advantage enters, such as the KL, is added afterwards.

Differs from the paper in: a reward without a gradient at a probe, since all its groups tie, keeps its weight, and the
others share the rest; each backward pass has its own forward pass, so that memory stays that of one reward; the stage
of equal weights at the end is another run. Recipe: configs/online/marble.yaml.
"""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

MOST = 8
"""Rewards that are balanced: each costs a backward pass at a probe, and the solver looks at all their subsets."""
ROUNDING = 1e-12


class Combined(NamedTuple):
    """Of K gradients, float64 [K]: their weights on the simplex, by what each is multiplied in the combined one, their
    norms, and their cosines with the combined one (0 where one of the two is 0)."""

    weights: Tensor
    factors: Tensor
    norms: Tensor
    cosines: Tensor


def least_norm(gram: Tensor) -> Tensor:
    """The weights a >= 0, sum a = 1, of least a^T M a, [K], for the matrix M [K, K] of inner products.

    Exact: the least point lies within the hull of affinely independent vectors, so one of the subsets solves the
    equality-constrained problem with weights that are not negative. Of equal ones the larger subset counts.
    """
    count = len(gram)
    scale = gram.diagonal().max().clamp(min=torch.finfo(gram.dtype).tiny)
    best, least = torch.full((count,), 1 / count, dtype=gram.dtype), torch.inf
    for size in range(count, 0, -1):
        for chosen in combinations(range(count), size):
            weights = _on_face(gram[chosen, :][:, chosen] / scale)
            if (weights < -ROUNDING).any() or not weights.isfinite().all():
                continue
            found = torch.zeros_like(best)
            found[list(chosen)] = weights.clamp(min=0) / weights.clamp(min=0).sum()
            value = (found @ gram @ found / scale).item()
            if value < least - ROUNDING:
                best, least = found, value
    return best


def _on_face(gram: Tensor) -> Tensor:
    """The stationary point of a^T M a with sum a = 1, of any sign."""
    count = len(gram)
    system = torch.ones(count + 1, count + 1, dtype=gram.dtype)
    system[:count, :count], system[count, count] = gram, 0
    right = torch.zeros(count + 1, dtype=gram.dtype)
    right[count] = 1
    return (torch.linalg.pinv(system, hermitian=True) @ right)[:count]


class Balance:
    """The weights of K rewards, equal at first, and when they are looked for again.

    every: updates from one probe to the next; the first update is one. decay: the share of the weights that stays at a
    probe. normalise: whether gradients count by their direction alone, without which the longest one rules.
    """

    def __init__(self, count: int, every: int = 10, decay: float = 0.7, normalise: bool = True):
        self.every, self.decay, self.normalise = every, decay, normalise
        self.weights = torch.full((count,), 1 / count, dtype=torch.float64)
        self.updates = 0

    def see(self, rewards: Tensor) -> None:
        """Weights come from gradients, not from rewards."""

    @property
    def due(self) -> bool:
        """Whether the next update is a probe."""
        return self.updates % self.every == 0

    def combined(self, gram: Tensor) -> Combined:
        """From the inner products of the gradients, float64 [K, K]."""
        norms = gram.diagonal().clamp(min=0).sqrt()
        seen = (norms > 0).nonzero().flatten()
        weights, factors, cosines = self.weights.clone(), torch.zeros_like(norms), torch.zeros_like(norms)
        if not len(seen):
            return Combined(weights, factors, norms, cosines)
        scale = norms[seen] if self.normalise else torch.ones_like(norms[seen])
        own = gram[seen][:, seen]
        found = least_norm(own / scale.outer(scale))
        absent = torch.ones_like(norms, dtype=torch.bool)
        absent[seen] = False
        weights[seen] = found * (1 - self.weights[absent].sum())
        factors[seen] = found * scale.mean() / scale
        along = own @ factors[seen]
        length = (factors[seen] @ along).clamp(min=0).sqrt()
        if length > ROUNDING * scale.mean():
            cosines[seen] = along / (length * norms[seen])
        return Combined(weights, factors, norms, cosines)

    def learn(self, weights: Tensor) -> None:
        """Move towards the weights of a probe; both lie on the simplex."""
        self.weights = self.decay * self.weights + (1 - self.decay) * weights

    def figures(self, names: tuple[str, ...]) -> dict[str, float]:
        return {f"balance/{name}": weight for name, weight in zip(names, self.weights.tolist(), strict=True)}

    def state_dict(self) -> dict:
        return {"weights": self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict) -> None:
        self.weights, self.updates = state["weights"], state["updates"]
