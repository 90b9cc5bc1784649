"""KTO: good and bad answers without pairs, each seen against the policy's usual distance from the reference.

    k = max(0, mean of rho over the batch),   loss = w_y (1 - s(y beta (rho - k))),   y = +1 good, -1 bad

Ethayarajh et al. 2024 (arXiv 2402.01306).

Differs from the paper in: k is the mean over the batch's own answers, as Diffusion-KTO has it, where the paper scores
answers against prompts of others. A batch of good answers alone, or of bad ones, makes k wrong: mix them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.language import LanguageBase, PairLogs, pair_report
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Weight


@register("language", "kto")
@dataclass(frozen=True)
class KTO(LanguageBase):
    """Good and bad answers, each against the policy's usual distance from the reference.

    beta: strength of the pull towards the reference. desirable_weight, undesirable_weight: of good and bad answers; of
    pairs the chosen answers are good and the rejected ones bad.
    """

    beta: Positive = 0.1
    desirable_weight: Weight = 1.0
    undesirable_weight: Weight = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.desirable_weight == self.undesirable_weight == 0:
            raise ValueError("desirable_weight and undesirable_weight are both 0, so there is nothing to learn")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference", "desirable"})

    def __call__(self, logs: PairLogs) -> Outcome:
        if logs.rejected is None:
            if logs.desirable is None:
                raise ValueError("kto needs pairs, or answers with a label that says whether they are good")
            usual = self.usual(logs, logs.rho_chosen)
            losses = self.losses(logs.rho_chosen - usual, logs.desirable.bool())
            return Outcome(logs.mean(losses), {
                "reward": (self.beta * logs.rho_chosen).detach(), "desirable": logs.desirable.float(),
                "usual": usual.expand_as(losses), "displaced": (logs.chosen < logs.ref_chosen).float()})
        usual = self.usual(logs, torch.cat([logs.rho_chosen, logs.rho_rejected]))
        good = torch.ones_like(logs.chosen, dtype=torch.bool)
        losses = (self.losses(logs.rho_chosen - usual, good) + self.losses(logs.rho_rejected - usual, ~good)) / 2
        report = pair_report(logs, self.beta * logs.h, self.beta * logs.rho_chosen, self.beta * logs.rho_rejected)
        return Outcome(logs.mean(losses), report | {"usual": usual.expand_as(losses)})

    def usual(self, logs: PairLogs, log_ratios: Tensor) -> Tensor:
        """k, a scalar without gradients, over all processes."""
        return logs.across(log_ratios.detach().mean()).clamp(min=0)

    def losses(self, excess: Tensor, good: Tensor) -> Tensor:
        """Of each answer from rho - k, [B]."""
        weights = torch.where(good, self.desirable_weight, self.undesirable_weight)
        return weights * torch.sigmoid(-self.beta * torch.where(good, excess, -excess))
