"""KTO: good and bad samples without pairs, each seen against the policy's usual distance from the reference.

    k = max(0, mean of g over the batch),   loss = w_y (1 - s(y beta (g - k))),   y = +1 good, -1 bad

g says how much more the policy makes of a sample than the reference: rho = lp - lp_ref of an answer, and E_ref - E of
an image or a video, with E the mean squared prediction error at the same time and noise.

Answers: Ethayarajh et al. 2024 (arXiv 2402.01306). Images and videos: Diffusion-KTO, Li et al. 2024 (arXiv
2404.04465), with the form of its published code. It maximises a utility U of z = y beta (g - k), of which it studies
three; here the loss is -U, and 1 - U of the first:

    kahneman_tversky  U = s(z)          U' = s(z) s(-z)   convex in losses (z < 0), concave in gains
    loss_averse       U = log s(z)      U' = s(-z)        concave: the worse a sample is off, the more it counts
    risk_seeking      U = -log s(-z)    U' = s(z)         convex: the better off it is, the more, without an end

Differs from the papers in: of answers, k is the mean over the batch's own answers, as Diffusion-KTO has it, where the
paper scores answers against prompts of others; flow models may be trained with it, since only errors enter; soft labels
take the mean of the loss over both labels; the published code adds 1 to the loss of loss_averse, which moves no weight.
A batch of good samples alone, or of bad ones, makes k wrong: mix them.
Recipe: configs/sd15_kto.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors
from visalign.objectives.language import LanguageBase, PairLogs, pair_report
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Ranged, Weight


@dataclass(frozen=True)
class LabelledSamples(Ranged):
    """Good and bad samples, each against the policy's usual distance from the reference.

    beta: strength of the pull towards the reference. desirable_weight, undesirable_weight: of good and bad samples; of
    pairs the chosen samples are good and the rejected ones bad.
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

    def usual(self, gains: Tensor, across: Callable[[Tensor], Tensor]) -> Tensor:
        """k from g, a scalar without gradients, over all processes that `across` averages."""
        return across(gains.detach().mean()).clamp(min=0)

    def losses(self, excess: Tensor, good: Tensor) -> Tensor:
        """Of each sample from g - k, [B]."""
        weights = torch.where(good, self.desirable_weight, self.undesirable_weight)
        return weights * self.lost(-self.beta * torch.where(good, excess, -excess))

    def lost(self, against: Tensor) -> Tensor:
        """The loss of each sample from -z, [B]."""
        return torch.sigmoid(against)


@register("language", "kto")
@dataclass(frozen=True)
class KTO(LabelledSamples, LanguageBase):
    """Of a language model's answers."""

    def __call__(self, logs: PairLogs) -> Outcome:
        if logs.rejected is None:
            if logs.desirable is None:
                raise ValueError("kto needs pairs, or answers with a label that says whether they are good")
            usual = self.usual(logs.rho_chosen, logs.across)
            losses = self.losses(logs.rho_chosen - usual, logs.desirable.bool())
            return Outcome(logs.mean(losses), {
                "reward": (self.beta * logs.rho_chosen).detach(), "desirable": logs.desirable.float(),
                "usual": usual.expand_as(losses), "displaced": (logs.chosen < logs.ref_chosen).float()})
        usual = self.usual(torch.cat([logs.rho_chosen, logs.rho_rejected]), logs.across)
        good = torch.ones_like(logs.chosen, dtype=torch.bool)
        losses = (self.losses(logs.rho_chosen - usual, good) + self.losses(logs.rho_rejected - usual, ~good)) / 2
        report = pair_report(logs, self.beta * logs.h, self.beta * logs.rho_chosen, self.beta * logs.rho_rejected)
        return Outcome(logs.mean(losses), report | {"usual": usual.expand_as(losses)})


@register("offline", "diffusion_kto")
@dataclass(frozen=True)
class DiffusionKTO(LabelledSamples, OfflineBase):
    """Of images and videos; errors are means over dimensions, hence a beta of about a thousand.

    utility: what a sample is worth: `kahneman_tversky`, to which those count most that are near the usual distance;
    `loss_averse`, those that are still wrong, as in DPO; `risk_seeking`, those that are right already, whose loss falls
    without an end.
    """

    beta: Positive = 1000.0
    utility: Literal["kahneman_tversky", "loss_averse", "risk_seeking"] = "kahneman_tversky"

    def lost(self, against: Tensor) -> Tensor:
        if self.utility == "loss_averse":
            return -F.logsigmoid(-against)
        if self.utility == "risk_seeking":
            return F.logsigmoid(against)
        return super().lost(against)

    def __call__(self, errors: PairErrors) -> Outcome:
        if errors.desirable is None:
            raise ValueError("diffusion_kto needs samples with a label that says whether they are good")
        gains, good = errors.ref_chosen - errors.chosen, errors.desirable
        usual = self.usual(gains, errors.across)
        right, wrong = self.losses(gains - usual, good), self.losses(gains - usual, ~good)
        margin = self.beta * torch.where(good, gains - usual, usual - gains).detach()
        return Outcome(errors.mean(errors.chance * right + (1 - errors.chance) * wrong), {
            "implicit_accuracy": (margin > 0).float(), "margin": margin, "reward": (self.beta * gains).detach(),
            "desirable": good.float(), "usual": usual.expand_as(gains)})
