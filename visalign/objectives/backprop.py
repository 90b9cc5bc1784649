"""DRaFT-K: the reward's gradient through the last K sampling steps (Clark et al. 2023, arXiv 2309.17400).

    L = -scale R(decode(x0)) + beta |v - v_ref|^2

The sharpest and the most easily hacked way to raise a reward: a baseline, with the pull to the reference the paper's
own runs lack. Recipe: configs/online/draft.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

from visalign.objectives.base import Outcome
from visalign.objectives.online import OnlineBase, RewardTerms, mean_square
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, SamplingSteps, Weight


@register("online", "draft")
@dataclass(frozen=True)
class DRaFT(OnlineBase):
    """last_steps: K, the sampling steps that carry gradients (1 is common). scale: of the reward."""

    last_steps: SamplingSteps = 1
    scale: Positive = 1.0
    beta: Weight = 0.0

    view: ClassVar[str] = "sampling"
    chooses: ClassVar[bool] = True
    stale: ClassVar[str] = "its gradient passes through the current policy's own last steps"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference"} if self.beta else ())

    def __call__(self, terms: RewardTerms) -> Outcome:
        loss, metrics = -self.scale * terms.reward, {"differentiated_reward": terms.reward.detach()}
        if self.beta:
            kl = mean_square(terms.prediction, terms.ref_prediction)
            loss, metrics["kl"] = loss + self.beta * kl, kl.detach()
        return Outcome(loss.mean(), metrics)
