"""Rewards that count at some noise levels alone: those of the layout where it is decided, those of the texture below.

    A_i(t) = advantage of sample i by the layout's rewards     where the noise fraction t > split
    A_i(t) = advantage of sample i by the texture's rewards    elsewhere

From Hi-GRPO (AR3D-R1, Tang et al. 2025, arXiv 2512.10949), whose coarse and fine stages have rewards of their own.

Differs from the paper in: there the stages are two passages of tokens of an autoregressive model; here they are the
sampling steps of one run, or the times at which its samples are noised, and where one ends is a setting.
Recipe: configs/online/hi_grpo.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visalign.validation.ranges import Ranged, Within


@dataclass(frozen=True)
class LevelSchedule(Ranged):
    """layout, texture: names of rewards that count above, and below, noise fraction `split` (1: pure noise). A reward
    that both name, or neither, counts everywhere."""

    layout: tuple[str, ...]
    texture: tuple[str, ...]
    split: Within = 0.75

    __pydantic_config__: ClassVar[dict] = {"extra": "forbid"}

    def by_term(self, advantages_of: Callable[[Tensor], Tensor], names: tuple[str, ...], weights: Tensor,
                levels: Tensor) -> Tensor:
        """Advantages of terms, float64 [n, T], at noise fractions `levels` [n, T]. advantages_of: from weights of the
        rewards [K] to advantages [n]."""
        above, below = (advantages_of(weights * self._counts(names, own, other)) for own, other in (
            (self.layout, self.texture), (self.texture, self.layout)))
        return torch.where(levels > self.split, above[:, None], below[:, None])

    def _counts(self, names: tuple[str, ...], own: tuple[str, ...], other: tuple[str, ...]) -> Tensor:
        """1 for each reward that counts at a level, 0 for one of the other level alone, [K]."""
        return torch.tensor([float(name in own or name not in other) for name in names], dtype=torch.float64)

    def one_sided(self, lowest: float, highest: float) -> str:
        """Why only one kind of reward would ever count, at noise fractions from lowest to highest; "" where both do."""
        if lowest > self.split:
            return f"lie above, so the rewards of texture ({', '.join(self.texture)}) would never count"
        if highest <= self.split:
            return f"do not lie above, so the rewards of layout ({', '.join(self.layout)}) would never count"
        return ""
