"""SFT and reward-weighted regression: plain denoising, on the chosen samples or on all weighted by reward.

SFT is the denoising loss on chosen samples. Flow-RWR (Liu et al. 2025, arXiv 2501.13918):

    loss = E[ w(r) E(x) ],   w = exp(r / tau), r standardised, r/tau clipped, w scaled to mean 1 in the batch.

Differs from the paper in: nothing known. tau -> infinity is SFT on all samples. Recipes: configs/sft.yaml,
configs/sd3_flow_rwr.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors
from visalign.objectives.registry import register
from visalign.validation.ranges import Exponent, Positive


@register("offline", "sft")
@dataclass(frozen=True)
class SFT(OfflineBase):
    """Denoising loss on the chosen samples; works with every process."""

    def __call__(self, errors: PairErrors) -> Outcome:
        return Outcome(errors.mean(errors.chosen), {"chosen_error": errors.chosen.detach()})


@register("offline", "flow_rwr")
@dataclass(frozen=True)
class FlowRWR(OfflineBase):
    """tau: temperature; clip: largest r / tau; standardise: rewards over the whole data set or within a prompt."""

    tau: Positive = 1.0
    clip: Exponent = 5.0
    standardise: Literal["dataset", "prompt"] = "dataset"

    process: ClassVar[str] = "flow"
    needs: ClassVar[frozenset[str]] = frozenset({"rejected", "rewards"})

    def __call__(self, errors: PairErrors) -> Outcome:
        weights = self.weights(torch.cat([errors.chosen_reward, errors.rejected_reward]))
        chosen_weight, rejected_weight = weights.chunk(2)
        loss = torch.cat([errors.weight * chosen_weight * errors.chosen,
                          errors.weight * rejected_weight * errors.rejected]).mean()
        return Outcome(loss, {"chosen_weight": chosen_weight, "rejected_weight": rejected_weight})

    def weights(self, rewards: Tensor) -> Tensor:
        """Importance of each sample from its standardised reward, mean 1, [N]."""
        weights = (rewards / self.tau).clamp(-self.clip, self.clip).exp()
        return weights / weights.mean()
