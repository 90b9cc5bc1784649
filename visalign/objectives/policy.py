"""Likelihood methods: the sampling steps of a stochastic sampler are actions, the reward of the result is the return.

    rho = exp(log p_theta - log p_old),   L = max(-A rho, -A clip(rho, 1 - c, 1 + c)) + beta KL

`grpo` is DDPO (Black et al. 2023, arXiv 2305.13301), Flow-GRPO (Liu et al. 2025, arXiv 2505.05470) and its Fast form,
DanceGRPO (Xue et al. 2025, arXiv 2505.07818) and MixGRPO (Li et al. 2025, arXiv 2507.21802): they differ in sampler,
trained steps and advantages, which a recipe sets. `grpo_guard` is Wang et al. 2025 (arXiv 2510.22319), `flow_dppo` is
arXiv 2606.11025, `d3po` is Yang et al. 2023 (arXiv 2311.13231). `step_weight: noise` is the weighting of TempFlow-GRPO
(He et al. 2025, arXiv 2508.04324). With rollouts that follow a latent reward R (`rollout.guide`) it is Euphonium (Zhong
et al. 2026, arXiv 2602.04928): a second surrogate learns which steps went well by R, clipped on its own,

    L(A_outcome) + process_weight L(A_process of the step) + distil |v_theta - v*|^2,

where v* = v_old + kappa h grad R / (d mean / d v) is the velocity whose plain step is the guided one, for a flow's SDE
v_old - kappa grad R / (1 + g^2 (1-t) / (2t)).

Differs from the papers in: see each class. Recipes: configs/online/*.yaml.
"""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.online import (
    OnlineBase,
    StepTerms,
    clipped_surrogate,
    mean_square,
    members_of,
    ratio_metrics,
)
from visalign.objectives.registry import register
from visalign.validation.ranges import Few, FewOrNone, Positive, Weight


def kl_to_reference(terms: StepTerms, form: str, steps: int = 0) -> Tensor:
    """[B]. `closed`: the KL of the two Gaussians, |mu - mu_ref|^2 / (2 std^2). `step_scaled`: that times the length of
    the step, as Flow-GRPO's code has it (its beta of 0.04 goes with this one). `velocity`: |v - v_ref|^2. `early`:
    |mu - mu_ref|^2 of the first `steps` sampling steps, and 0 of later ones (DiverseGRPO, arXiv 2512.21514: the squared
    Wasserstein distance of the two Gaussians; a KL is weakest at the noisy steps where diversity is decided)."""
    if form == "velocity":
        return mean_square(terms.prediction, terms.ref_prediction)
    if form == "early":
        return mean_square(terms.mean, terms.ref_mean) * (terms.step < steps)
    closed = mean_square(terms.mean, terms.ref_mean) / (2 * terms.std.square())
    return closed * terms.h if form == "step_scaled" else closed


def distance_to_guided(terms: StepTerms) -> Tensor:
    """|v - v*|^2 where a guide moved the sample, 0 elsewhere, [B]. v* is the prediction whose mean is old_mean + moves.
    """
    apart = mean_square(terms.mean, terms.old_mean + terms.moves) / terms.sensitivity.square()
    return apart * (terms.moves != 0).flatten(1).any(1)


@dataclass(frozen=True)
class PolicyGradient(OnlineBase):
    """Settings the ratio methods share. clip_high None: as clip. beta: weight of the KL to the reference (0: none).

    kl: its form; `early` holds the policy at the first `kl_steps` sampling steps alone, so its beta is another. As
    every term it is averaged over all steps that are trained on.
    step_weight: how much the surrogate of a step counts among those of its sample that are trained on. `none`: all
    alike. `noise`: in proportion to the noise that it adds, std_j / mean_j std (TempFlow-GRPO, equation 8): steps with
    more noise decide more of the image. Their mean is 1, and they are 1 where every step adds as much.
    distil: weight of the squared distance to the velocity that would have moved the sample as the guide did, at guided
    steps, and 0 at others; |mean - (old mean + move)|^2 / slope^2 is the same. Euphonium's code has it at 0: what is
    moved is learnt through its advantages.
    Differs from TempFlow-GRPO in: it weighs steps only, and leaves the KL as it is; the paper also draws samples that
    part at a single step, which is `rollout.window` of size 1 with `same_noise`.
    """

    clip: Positive = 1e-4
    clip_high: Positive | None = None
    beta: Weight = 0.0
    kl: Literal["step_scaled", "closed", "velocity", "early"] = "step_scaled"
    kl_steps: FewOrNone = 0
    step_weight: Literal["none", "noise"] = "none"
    distil: Weight = 0.0

    view: ClassVar[str] = "steps"
    credits_steps: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if (self.kl == "early") != bool(self.kl_steps):
            raise ValueError(f"kl {self.kl} with kl_steps {self.kl_steps}: kl early needs the number of first steps in "
                             "kl_steps, at least 1, and no other form of it takes kl_steps")
        if self.kl == "early" and not self.beta:
            raise ValueError("kl early without beta: set the weight of the KL in beta, above 0")

    @property
    def early_steps(self) -> int:
        return self.kl_steps

    @property
    def high(self) -> float:
        return self.clip if self.clip_high is None else self.clip_high

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference"} if self.beta else ()) | ({"old_mean", "moves"} if self.distil else frozenset())

    def log_ratio(self, terms: StepTerms) -> Tensor:
        return terms.log_prob - terms.old_log_prob

    def policy_loss(self, terms: StepTerms, log_ratio: Tensor) -> Tensor:
        return clipped_surrogate(terms.advantage, log_ratio.exp(), self.clip, self.high)

    def __call__(self, terms: StepTerms) -> Outcome:
        log_ratio = self.log_ratio(terms)
        loss = self.policy_loss(terms, log_ratio)
        metrics = ratio_metrics(log_ratio, self.clip, self.high) | {"log_prob": terms.log_prob.detach(),
                                                                     "policy_loss": loss.detach()}
        if terms.process_advantage is not None:
            of_step = self.policy_loss(replace(terms, advantage=terms.process_advantage), log_ratio)
            loss, metrics["process_loss"] = loss + of_step, of_step.detach()
        if self.step_weight == "noise":
            weight = terms.std / terms.mean_std
            loss, metrics["step_weight"] = weight * loss, weight
        if self.beta:
            kl = kl_to_reference(terms, self.kl, self.kl_steps)
            loss, metrics["kl"] = loss + self.beta * kl, kl.detach()
        if self.distil:
            apart = distance_to_guided(terms)
            loss, metrics["distil"] = loss + self.distil * apart, apart.detach()
        return Outcome(loss.mean(), metrics)


@register("online", "grpo")
@dataclass(frozen=True)
class GRPO(PolicyGradient):
    """The clipped surrogate. With one update an epoch every ratio is 1: on-policy REINFORCE."""


@register("online", "grpo_guard")
@dataclass(frozen=True)
class GRPOGuard(PolicyGradient):
    """Ratios whose mean is 1 at every noise level, and losses of equal gradient.

        log rho = std [log p - log p_old + |mu - mu_old|^2 / (2 std^2)],   L = surrogate / |d mu / d v|

    Differs from the paper in: the divisor is the exact slope of the sampler in use, h (1 + g^2 (1-t) / (2t)); for
    Flow-SDE that is the paper's h times a constant (1.245 at noise level 0.7), which AdamW does not see.
    """

    clip: Positive = 2e-6

    def __post_init__(self):
        super().__post_init__()
        if self.step_weight != "none":
            raise ValueError(f"step_weight {self.step_weight} favours noisy steps, and grpo_guard gives every step the "
                             "same gradient: use one of them (objective.name grpo takes step_weight)")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"old_mean"}

    def log_ratio(self, terms: StepTerms) -> Tensor:
        shift = mean_square(terms.mean, terms.old_mean) / (2 * terms.std.square())
        return terms.std * (terms.log_prob - terms.old_log_prob + shift)

    def policy_loss(self, terms: StepTerms, log_ratio: Tensor) -> Tensor:
        return super().policy_loss(terms, log_ratio) / terms.sensitivity


@register("online", "flow_dppo")
@dataclass(frozen=True)
class FlowDPPO(PolicyGradient):
    """No ratio clip: a sample is ignored once its step has diverged from the old policy by more than `divergence`
    (|mu - mu_old|^2 / (2 std^2)) in the direction of its advantage."""

    divergence: Positive = 1e-5

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"old_mean"}

    def policy_loss(self, terms: StepTerms, log_ratio: Tensor) -> Tensor:
        moved = mean_square(terms.mean, terms.old_mean).detach() / (2 * terms.std.square())
        along = torch.where(terms.advantage > 0, log_ratio > 0, log_ratio < 0)
        return -terms.advantage * log_ratio.exp() * (~((moved > self.divergence) & along)).float()


@dataclass(frozen=True)
class StepPairs(OnlineBase):
    """-log sigmoid(beta (log R_w - log R_l)) of rows 2i and 2i + 1, R = clip(p / p_ref, 1 - clip, 1 + clip) of a step.
    """

    beta: Positive = 0.1
    clip: Positive = 0.1

    chooses: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.best_of:
            raise ValueError("best_of does not go with pairs")

    def of_pairs(self, terms: StepTerms) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair, and metrics of both rows."""
        bounds = math.log(1 - self.clip) if self.clip < 1 else -math.inf, math.log(1 + self.clip)
        log_ratio = terms.log_prob - terms.ref_log_prob
        bounded = log_ratio.clamp(*bounds)
        z = self.beta * (bounded[0::2] - bounded[1::2])
        return -F.logsigmoid(z), ratio_metrics(log_ratio, self.clip, self.clip) | {
            "log_prob": terms.log_prob.detach(), "margin": z.detach().repeat_interleave(2),
            "implicit_accuracy": (z > 0).float().repeat_interleave(2)}


@register("online", "d3po")
@dataclass(frozen=True)
class D3PO(StepPairs):
    """DPO on the steps of two samples of one prompt. Pairs are the best and the worst of a group, then the second best
    and the second worst, `pairs_per_group` of them; with votes, the two images that were voted on.
    Differs from the paper in: nothing known. A bound that is reached stops the gradient of that sample.
    """

    pairs_per_group: Few = 1

    view: ClassVar[str] = "steps"
    unit: ClassVar[int] = 2
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    @property
    def least_group(self) -> int:
        return 2 * self.pairs_per_group

    def select(self, advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]:
        """(preferred, other) of each pair whose advantages differ."""
        pairs = []
        for members in members_of(groups):
            usable = members[~advantages[members].isnan()]
            order = usable[advantages[usable].argsort(stable=True, descending=True)].tolist()
            for i in range(min(self.pairs_per_group, len(order) // 2)):
                if advantages[order[i]] > advantages[order[-1 - i]]:
                    pairs.append((order[i], order[-1 - i]))
        return pairs

    def __call__(self, terms: StepTerms) -> Outcome:
        losses, metrics = self.of_pairs(terms)
        return Outcome(losses.mean(), metrics)
