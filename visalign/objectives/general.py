"""The loss of the general preference model: what comparisons say of pairs of embeddings.

    m(a, b) = sum_l ( a[2l] b[2l+1] - a[2l+1] b[2l] )         loss: -log s(m), or as ties and label noise have it

GPM: Zhang et al., ICML 2025, arXiv 2410.02197. Embeddings are those of the head `model.general`, which divides by the
temperature. With embeddings (r, 1) it is Bradley-Terry: m = r_a - r_b.
Differs from the paper in: its regression losses are left out; ties, margins and label noise are those of rewards.
Recipe: configs/reward_model/general.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from visalign.objectives.registry import register
from visalign.objectives.reward_model import RewardModelLoss


def preference_score(a: Tensor, b: Tensor) -> Tensor:
    """By how much a is preferred to b, from embeddings [..., 2k]: [...]; the published sign."""
    return (a[..., 0::2] * b[..., 1::2] - a[..., 1::2] * b[..., 0::2]).sum(-1)


@register("reward", "general")
@dataclass(frozen=True)
class GeneralPreferenceLoss(RewardModelLoss):
    """As `preference`, with the margin of two embeddings instead of two rewards; ratings have no place in it."""

    takes: ClassVar[str] = "embeddings"

    def __post_init__(self):
        super().__post_init__()
        for name in ("rating_weight", "centre"):
            if getattr(self, name):
                raise ValueError(f"{name} is {getattr(self, name)}: objective general compares, so a sample by itself "
                                 "has no number; leave it out")

    def margins(self, a: Tensor, b: Tensor) -> Tensor:
        return preference_score(a, b)
