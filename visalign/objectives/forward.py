"""Forward-process methods: the policy's samples are noised afresh, so any solver may draw them and no likelihood is
needed.

`nft` is DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117), `awm` advantage weighted matching (Xue et al. 2025, arXiv
2509.25050), `raft` reward-ranked fine-tuning (Dong et al. 2023, arXiv 2304.06767): SFT on the best of each group.

Differs from the papers in: one old policy serves AWM as sampler, denominator and anchor (its published code keeps two
averages). Recipes: configs/online/nft.yaml, configs/online/awm.yaml, configs/online/raft.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.online import (
    NoisedTerms,
    OnlineBase,
    clipped_surrogate,
    mean_square,
    members_of,
    ratio_metrics,
)
from visalign.objectives.registry import register
from visalign.validation.ranges import Few, Fraction, Positive, SamplingSteps, Share, Shift, Steps, Weight


@dataclass(frozen=True)
class ForwardMethod(OnlineBase):
    """times: how many times are drawn for each sample. time_sampling: `grid` takes a random choice of the sampler's own
    times without repetition, its last one excepted; the others are as in offline training, shifted by time_shift.
    noisiest: keep to this share of the grid, from pure noise down.
    draws: `group` takes the same times and noise for all samples of a prompt, so that only the samples differ; groups
    are then trained on whole."""

    times: SamplingSteps = 4
    time_sampling: Literal["grid", "uniform", "logit_normal", "shifted"] = "grid"
    time_shift: Shift = 3.0
    noisiest: Share = 1.0
    draws: Literal["sample", "group"] = "sample"

    view: ClassVar[str] = "noised"


@register("online", "nft")
@dataclass(frozen=True)
class DiffusionNFT(ForwardMethod):
    """Pull towards good own samples and away from bad ones, seen from the old policy (eq. 5 of the paper).

        r = clip(A / A_max, -1, 1)/2 + 1/2,   v+ = b v + (1-b) v_old,   v- = (1+b) v_old - b v
        l(v) = |x0(v) - x0|^2 / sg[max(mean |x0(v) - x0|, 1e-5)]
        L = A_max (r l(v+) + (1-r) l(v-)) / b + beta_kl |v - v_ref|^2

    mixing: b; smaller reaches further and is less stable. decay: the share of the old policy kept after an epoch, by
    the number of optimiser steps: `none` 0, `slow` min(0.001 n, 0.5), `late` min(0.0075 (n - 75), 0.999) from step 75
    on. A sample of advantage 0 pulls towards the old policy; advantage.drop_zero omits it.
    """

    mixing: Positive = 1.0
    beta_kl: Weight = 1e-4
    advantage_max: Positive = 5.0
    decay: Literal["none", "slow", "late"] = "slow"

    process: ClassVar[str] = "flow"
    stale: ClassVar[str] = "it compares with the policy that sampled, which is its own old policy"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", "reference"} if self.beta_kl else {"old"})

    def old_decay(self, updates: int) -> float:
        if self.decay == "late":
            return min(max(0.0, 0.0075 * (updates - 75)), 0.999)
        return min(0.001 * updates, 0.5) if self.decay == "slow" else 0.0

    def not_affine(self, updates: int, largest: float) -> str:
        if largest > self.advantage_max:
            return (f"objective.advantage_max {self.advantage_max:g} cuts advantages that advantage.clip {largest:g} "
                    "lets by")
        return ""

    def __call__(self, terms: NoisedTerms) -> Outcome:
        b, old = self.mixing, terms.old_prediction
        positive = (terms.advantage / self.advantage_max).clamp(-1, 1) / 2 + 0.5
        toward = b * terms.prediction + (1 - b) * old
        away = (1 + b) * old - b * terms.prediction
        good, bad = self._error(terms, toward), self._error(terms, away)
        loss = self.advantage_max * (positive * good + (1 - positive) * bad) / b
        moved = mean_square(terms.prediction, old).detach()
        metrics = {"optimality": positive, "good_error": good.detach(), "bad_error": bad.detach(), "old_deviate": moved}
        if not self.beta_kl:
            return Outcome(loss.mean(), metrics)
        kl = mean_square(terms.prediction, terms.ref_prediction)
        held = self.beta_kl * kl
        return Outcome((loss + held).mean(), metrics | {"kl": kl.detach()}, held.mean())

    @staticmethod
    def _error(terms: NoisedTerms, prediction: Tensor) -> Tensor:
        distance = (terms.x0_of(prediction) - terms.x0).double()
        weight = distance.abs().flatten(1).mean(1).detach().clamp(min=1e-5)
        return (distance.square().flatten(1).mean(1) / weight).float()


@register("online", "awm")
@dataclass(frozen=True)
class AWM(ForwardMethod):
    """The clipped surrogate with the pre-training loss as log-likelihood: log rho = w(E_old, t) - w(E, t).

    weighting w: `uniform` E, `linear` t E, `square` t^2 E, `huber` t (sqrt(E + 1e-10) - 1e-5), `ghuber`
    (t/p) ((E + 1e-10)^p - (1e-10)^p) with p = 1/4. With A < 0 the loss has no lower bound, so `clip` and `beta_old`
    (pull to the old policy) must not both be inactive. decay_max, decay_ramp: the old policy keeps
    min(decay_max, n decay_max / decay_ramp) of itself after an epoch, n in optimiser steps.
    """

    clip: Positive = 1.0
    weighting: Literal["uniform", "linear", "square", "huber", "ghuber"] = "ghuber"
    beta_kl: Weight = 1e-4
    beta_old: Weight = 1.0
    decay_max: Fraction = 0.3
    decay_ramp: Steps = 1000

    process: ClassVar[str] = "flow"
    stale: ClassVar[str] = "its ratio is to the policy that sampled, which is its own old policy"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"old", "reference"} if self.beta_kl else {"old"})

    def old_decay(self, updates: int) -> float:
        return self.decay_max * min(1.0, updates / self.decay_ramp)

    def not_affine(self, updates: int, largest: float) -> str:
        if updates > 1 or self.decay_max:
            return ("its ratio is clipped, unless the old policy is the current one at every update "
                    "(train.updates_per_epoch 1 and objective.decay_max 0)")
        return ""

    def weighted_error(self, error: Tensor, t: Tensor) -> Tensor:
        """w(E, t), [B] float64."""
        error, t = error.double(), t.double()
        if self.weighting == "huber":
            return t * ((error + 1e-10).sqrt() - 1e-5)
        if self.weighting == "ghuber":
            return t / 0.25 * ((error + 1e-10) ** 0.25 - 1e-10**0.25)
        return {"uniform": torch.ones_like(t), "linear": t, "square": t.square()}[self.weighting] * error

    def __call__(self, terms: NoisedTerms) -> Outcome:
        t = terms.noise_fraction
        now = self.weighted_error(mean_square(terms.prediction, terms.target), t)
        then = self.weighted_error(mean_square(terms.old_prediction, terms.target), t)
        log_ratio = (then - now).float()
        loss = clipped_surrogate(terms.advantage, log_ratio.exp(), self.clip, self.clip)
        moved = mean_square(terms.prediction, terms.old_prediction)
        metrics = ratio_metrics(log_ratio, self.clip, self.clip) | {"policy_loss": loss.detach(),
                                                                     "old_deviate": moved.detach()}
        held = self.beta_old * moved
        loss = loss + held
        if self.beta_kl:
            kl = mean_square(terms.prediction, terms.ref_prediction)
            toward = self.beta_kl * kl
            loss, held, metrics["kl"] = loss + toward, held + toward, kl.detach()
        return Outcome(loss.mean(), metrics, held.mean())


@register("online", "raft")
@dataclass(frozen=True)
class RAFT(ForwardMethod):
    """Denoising loss on the `keep` best samples of each group, those above the group's mean."""

    keep: Few = 1
    beta_kl: Weight = 0.0

    draws: ClassVar[str] = "sample"  # it splits groups
    chooses: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        if self.best_of:
            raise ValueError(f"best_of does not go with keep, got {self.best_of} and {self.keep}")

    @property
    def least_group(self) -> int:
        return self.keep + 1

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference"} if self.beta_kl else ())

    def select(self, advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]:
        kept = []
        for members in members_of(groups):
            good = members[advantages[members].nan_to_num(0.0) > 0]
            kept += good[advantages[good].argsort(stable=True, descending=True)][:self.keep].tolist()
        return [(i,) for i in sorted(kept)]

    def __call__(self, terms: NoisedTerms) -> Outcome:
        error = mean_square(terms.prediction, terms.target)
        loss, metrics = error, {"error": error.detach()}
        if self.beta_kl:
            kl = mean_square(terms.prediction, terms.ref_prediction)
            loss, metrics["kl"] = error + self.beta_kl * kl, kl.detach()
        return Outcome(loss.mean(), metrics)
