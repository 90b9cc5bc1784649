"""Forward-process methods that compare the samples of a prompt with each other, at the same times and noise.

`dgpo` is direct group preference optimisation (Luo, Hu and Tang 2025, arXiv 2510.08425), `crd` centred reward
distillation (2026, arXiv 2603.14128). Both learn from whole groups, and a micro-batch may hold several. E is a sample's
mean squared error of the prediction, D = E - E_ref.

Differs from the papers in: they are for flow models, and diffusion models learn the same with their own errors; the old
policy of DGPO follows once an epoch, which is once an update, as in its code, where an epoch has one; CRD is centred
over the group, where its code centres over whatever a micro-batch holds, and its temperature 0 is left out, since there
the code compares with 0 what lies between 0 and 1, and so takes all samples.
Recipes: configs/online/dgpo.yaml, configs/online/crd.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.forward import ForwardMethod
from visalign.objectives.online import NoisedTerms, mean_square, ratio_metrics
from visalign.objectives.registry import register
from visalign.validation.ranges import FewOrNone, Fraction, GuidanceScale, Portion, Positive, Steps, Weight


def mean_of_group(values: Tensor, group: Tensor) -> Tensor:
    """Of each sample's group, [B]; as a product, which adds up in the same order every time."""
    same = (group[:, None] == group[None, :]).to(values)
    return same @ values / same.sum(1)


@dataclass(frozen=True)
class GroupMethod(ForwardMethod):
    """train_guidance: guidance scale of the policy and its old self in training, ref_guidance: of the reference; null:
    that of the rollout. Samples may be drawn with guidance, and what is learnt be the prediction without it."""

    train_guidance: GuidanceScale | None = None
    ref_guidance: GuidanceScale | None = None

    draws: ClassVar[str] = "group"


@register("online", "dgpo")
@dataclass(frozen=True)
class DGPO(GroupMethod):
    """DPO between the better and the worse part of a group, each sample by its advantage.

        S = sum over the group of (beta / G) A_i D_i,   W = s(S),   L = mean(W A_i E_i) + beta_kl |v - v_ref|^2

    L's gradient is that of -log s(-S) / beta, a mean over groups. W is 1/2 where the policy is the reference, and falls
    as the group is won; no gradient goes through it. With two samples it is Diffusion-DPO's. A must add up to 0 over a
    group: only so the prompt's normaliser cancels.
    clip: a sample gives no gradient once exp(E_old - E) has left 1 +- clip in the direction of its advantage; it still
    counts in S. The old policy keeps min(decay_max, n decay_max / decay_ramp) of itself after an epoch, n in optimiser
    steps, and draws the samples once n is above `switch`. moving_reference: the old policy stands for the reference in
    D, and beta_kl alone holds to the frozen one.
    """

    beta: Positive = 100.0
    beta_kl: Weight = 0.02
    clip: Positive = 0.01
    decay_max: Fraction = 0.3
    decay_ramp: Steps = 300
    switch: FewOrNone = 200
    moving_reference: bool = False

    centred: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.ref_guidance is not None and "reference" not in self.needs:
            raise ValueError(f"ref_guidance {self.ref_guidance:g}: nothing asks the reference with moving_reference "
                             "and beta_kl 0; leave it out")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old"} if self.moving_reference and not self.beta_kl else {"old", "reference"})

    def drawn_by(self, updates: int) -> str:
        return "old" if updates > self.switch else "policy"

    def old_decay(self, updates: int) -> float:
        return self.decay_max * min(1.0, updates / self.decay_ramp)

    def __call__(self, terms: NoisedTerms) -> Outcome:
        a = terms.advantage
        error = mean_square(terms.prediction, terms.target)
        old = mean_square(terms.old_prediction, terms.target)
        reference = old if self.moving_reference else mean_square(terms.ref_prediction, terms.target)
        weight = torch.sigmoid(self.beta * mean_of_group((a * (error - reference)).detach(), terms.group))
        found = ratio_metrics(old - error, self.clip, self.clip)
        left = torch.where(a > 0, found["clipped_above"], found["clipped_below"]) > 0
        loss = weight * a * torch.where(left, error.detach(), error)
        moved = mean_square(terms.prediction, terms.old_prediction).detach()
        metrics = found | {"group_weight": weight, "clipped": left.float(), "policy_loss": loss.detach(),
                           "error": error.detach(), "old_deviate": moved}
        if self.beta_kl:
            kl = mean_square(terms.prediction, terms.ref_prediction)
            loss, metrics["kl"] = loss + self.beta_kl * kl, kl.detach()
        return Outcome(loss.mean(), metrics)


@register("online", "crd")
@dataclass(frozen=True)
class CRD(GroupMethod):
    """The implicit reward of a sample follows its reward, both as they differ from their group.

        r = clip(A / A_max, -1, 1)/2 + 1/2,   q = E_old / w_old - E / w,   w = sg[max(mean |v - target|, 1e-5)]
        L = (A_max / b) mean (b (q - sg[mean q]) - (r - mean r))^2 + k(r) |v - v_ref|^2

    beta: b. At the old policy L's gradient is -2 A_max (r - mean r) dq; groups of equal rewards are pulled to the old
    policy. adaptive: divide errors by w, which is 1 without it. loss: `bce` puts the cross-entropy of b (q - mean q)
    with s(r - mean r) in place of the square. temperature T: centre twice, by means weighted with softmax(r / T) and
    with softmax(-r / T), and take the mean of the losses; null: by the plain mean.
    beta_kl: the KL's weight; adaptive_kl: k(r) rises from min(1e-4, beta_kl) at r = 0 to beta_kl at r = 1.
    The old policy keeps min(decay_start + decay_rise n, 0.999) of itself after an epoch, n in optimiser steps, and what
    draws the samples min(0.0075 (n - 75), 0.999) from step 75 on.
    """

    beta: Positive = 1.0
    beta_kl: Weight = 0.1
    advantage_max: Positive = 5.0
    loss: Literal["mse", "bce"] = "mse"
    adaptive: bool = True
    temperature: Positive | None = None
    adaptive_kl: bool = True
    decay_start: Fraction = 0.25
    decay_rise: Portion = 0.005

    def __post_init__(self):
        super().__post_init__()
        if self.ref_guidance is not None and not self.beta_kl:
            raise ValueError(f"ref_guidance {self.ref_guidance:g}: nothing asks the reference with beta_kl 0; leave it "
                             "out")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", "sampler", "reference"} if self.beta_kl else {"old", "sampler"})

    def old_decay(self, updates: int) -> float:
        return min(self.decay_start + self.decay_rise * updates, 0.999)

    def sampler_decay(self, updates: int) -> float:
        return min(max(0.0, 0.0075 * (updates - 75)), 0.999)

    def implicit_reward(self, terms: NoisedTerms) -> Tensor:
        """q, [B]."""
        return self._error(terms.old_prediction, terms.target) - self._error(terms.prediction, terms.target)

    def _error(self, prediction: Tensor, target: Tensor) -> Tensor:
        distance = (prediction - target).double()
        error = distance.square().flatten(1).mean(1)
        if self.adaptive:
            error = error / distance.detach().abs().flatten(1).mean(1).clamp(min=1e-5)
        return error.float()

    def matching(self, q: Tensor, r: Tensor, group: Tensor) -> Tensor:
        """What is left between implicit rewards q and rewards r, both [B], within their groups, [B]."""
        others = group[:, None] != group[None, :]
        tilts = (0.0,) if self.temperature is None else (1 / self.temperature, -1 / self.temperature)
        losses = []
        for tilt in tilts:
            share = (tilt * r).expand(len(r), -1).masked_fill(others, -torch.inf).softmax(1)
            reward, logit = r - share @ r, self.beta * (q - share @ q.detach())
            losses.append((logit - reward).square() if self.loss == "mse" else
                          F.binary_cross_entropy_with_logits(logit, reward.sigmoid(), reduction="none"))
        return torch.stack(losses).mean(0)

    def __call__(self, terms: NoisedTerms) -> Outcome:
        r = ((terms.advantage / self.advantage_max).clamp(-1, 1) / 2 + 0.5).float()
        q = self.implicit_reward(terms)
        loss = self.advantage_max / self.beta * self.matching(q, r, terms.group)
        moved = mean_square(terms.prediction, terms.old_prediction).detach()
        metrics = {"optimality": r, "implicit_reward": q.detach(), "policy_loss": loss.detach(), "old_deviate": moved}
        if self.beta_kl:
            kl = mean_square(terms.prediction, terms.ref_prediction)
            least = min(1e-4, self.beta_kl)
            held = least + r * (self.beta_kl - least) if self.adaptive_kl else self.beta_kl
            loss, metrics["kl"] = loss + held * kl, kl.detach()
        return Outcome(loss.mean(), metrics)
