"""The reward that has gained least counts most: MaxMin-RLHF (Chakraborty et al. 2024, arXiv 2402.08925), for rewards
that speak for different groups of people.

    z_k = (mean of reward k in this epoch - mean in the first one) / std in the first one
    w_k <- w_k exp(-rate z_k) / sum_j w_j exp(-rate z_j),   A = sum_k w_k A_k

Each epoch adds to the weights, so a group that stays behind counts more and more; a large rate takes the worst alone.

Differs from the paper in: weights move smoothly, as in group DRO (Sagawa et al. 2020, arXiv 1911.08731), instead of the
worst reward alone at every step; gains are measured against the samples of the run's first epoch, which the untrained
model drew; the groups' rewards are given, and are not found by EM. Recipe: configs/online/worst_group.yaml.
"""

import torch
from torch import Tensor


class WorstGroup:
    """The weights of K rewards, equal at first; they add up to 1."""

    def __init__(self, count: int, rate: float = 0.1):
        self.rate = rate
        self.logs = torch.zeros(count, dtype=torch.float64)
        self.mean, self.std, self.gains = (torch.full_like(self.logs, torch.nan) for _ in range(3))

    @property
    def weights(self) -> Tensor:
        return self.logs.softmax(0)

    def see(self, rewards: Tensor) -> None:
        """Move the weights; a reward that scored nothing this epoch, or was the same for all at first, stays."""
        rewards = rewards.double()
        means = rewards.nanmean(0)
        stds = (rewards - means).square().nanmean(0).sqrt()
        first = self.mean.isnan()
        self.mean, self.std = torch.where(first, means, self.mean), torch.where(first, stds, self.std)
        self.gains = torch.where(self.std > 0, (means - self.mean) / self.std, torch.nan)
        self.logs = self.logs - self.rate * self.gains.nan_to_num(0.0)

    def figures(self, names: tuple[str, ...]) -> dict[str, float]:
        rows = zip(names, self.weights.tolist(), self.gains.tolist(), strict=True)
        return {f"{what}/{name}": value for name, weight, gain in rows
                for what, value in (("group_weight", weight), ("group_gain", gain)) if value == value}

    def state_dict(self) -> dict:
        return {"logs": self.logs, "mean": self.mean, "std": self.std}

    def load_state_dict(self, state: dict) -> None:
        self.logs, self.mean, self.std = state["logs"], state["mean"], state["std"]
