"""Rewards that are raised to a threshold and held there: Lagrange multipliers that move with the run (constrained RLHF,
Moskovitz et al. 2023, arXiv 2310.04373).

    raw_k <- raw_k - rate b_k,   b_k <- momentum b_k + l'(raw_k) (J_k - c_k)      SGD on sum_k l_k (J_k - c_k)
    l_k = tanh(raw_k), sigmoid(raw_k) or max(raw_k, 0),   A = sum_k l_k A_k

J_k is the epoch's mean of reward k, c_k its threshold. l_k falls while the reward lies above. tanh turns negative there
and pushes the reward back down, which is what holds an exploitable reward where it is still useful; sigmoid keeps it
at least at the threshold.

Differs from the paper in: the KL has the weight that the objective gives it, instead of K - sum_k l_k; a reward without
a threshold keeps its weight; thresholds are known before (`visalign evaluate RUN --checkpoints all --gold NAME`), and
none is looked for while the run learns. Recipe: configs/online/constrained.yaml.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

FIRST_RAW = {"tanh": 0.0, "sigmoid": 0.0, "none": 0.5}
"""Of the raw multipliers, by the function that squashes them."""


class Multipliers:
    """The weights of K rewards, of which those with a threshold have a multiplier.

    weights: [K], which the others keep. rate, momentum: of the multipliers' SGD, in 1 / (unit of the reward).
    """

    def __init__(self, names: tuple[str, ...], weights: Tensor, thresholds: Mapping[str, float], squash: str = "tanh",
                 rate: float = 0.1, momentum: float = 0.1):
        self.squash, self.rate, self.momentum, self.fixed = squash, rate, momentum, weights.double()
        self.thresholds = torch.tensor([thresholds.get(name, torch.nan) for name in names], dtype=torch.float64)
        self.raw = torch.full_like(self.thresholds, FIRST_RAW[squash])
        self.velocity = torch.zeros_like(self.raw)
        self.above = torch.full_like(self.raw, torch.nan)

    @property
    def weights(self) -> Tensor:
        return torch.where(self.thresholds.isnan(), self.fixed, self._squashed()[0])

    def see(self, rewards: Tensor) -> None:
        """Move each multiplier by its reward's mean; one that scored nothing this epoch stays."""
        self.above = rewards.double().nanmean(0) - self.thresholds
        known = ~self.above.isnan()
        velocity = self.momentum * self.velocity + self._squashed()[1] * self.above
        self.velocity = torch.where(known, velocity, self.velocity)
        raw = torch.where(known, self.raw - self.rate * self.velocity, self.raw)
        self.raw = raw.clamp(min=0) if self.squash == "none" else raw

    def _squashed(self) -> tuple[Tensor, Tensor]:
        """The multipliers, and their slopes."""
        if self.squash == "none":
            return self.raw, torch.ones_like(self.raw)
        if self.squash == "sigmoid":
            found = self.raw.sigmoid()
            return found, found * (1 - found)
        found = self.raw.tanh()
        return found, 1 - found.square()

    def figures(self, names: tuple[str, ...]) -> dict[str, float]:
        rows = zip(names, self.weights.tolist(), self.above.tolist(), strict=True)
        return {f"{what}/{name}": value for name, multiplier, above in rows if above == above
                for what, value in (("multiplier", multiplier), ("above_threshold", above))}

    def state_dict(self) -> dict:
        return {"raw": self.raw, "velocity": self.velocity}

    def load_state_dict(self, state: dict) -> None:
        self.raw, self.velocity = state["raw"], state["velocity"]
