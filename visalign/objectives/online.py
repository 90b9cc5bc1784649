"""Inputs and outputs of an online objective; the loop calls every method in the same way.

A method names its `view`: which terms the loop makes of its own samples.
    steps     one term per trained sampling step: log-probabilities of the stored transition (StepTerms)
    noised    one term per drawn time: predictions at the noised final latents (NoisedTerms)
    siblings  one term per trained step: two candidates of that step, told apart by a latent reward (StepTerms)
    sampling  one term: the end of the sampling run with gradients, scored by a differentiable reward (RewardTerms)
    known_noise  one term per drawn time: clean latents recovered from one step at known noise, scored alike
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.validation.ranges import FewOrNone, Ranged


@dataclass(frozen=True)
class StepTerms:
    """One stored sampling step of a micro-batch; scalars are [B], tensors [B, ...], all float32.

    sample was drawn from N(old_mean, std^2); `mean` and `prediction` are the policy's at the same latents, `ref_*` the
    reference's (None unless needed). h: length of the step in noise fraction. sensitivity: |d mean / d prediction|.
    mean_std: the mean of std over the steps of the same sample that are trained on. step: int64, which of the sampling
    steps it is, 0 the noisiest. group: int64, equal for samples of one prompt. process_advantage: how much better the
    step itself went than the same step of the group's other samples, 0 where nobody says; None where nothing is learnt
    from that. moves: how far a guide moved `sample`, 0 where it did not.
    """

    advantage: Tensor
    log_prob: Tensor
    old_log_prob: Tensor
    sample: Tensor
    mean: Tensor
    old_mean: Tensor | None
    std: Tensor
    h: Tensor
    sensitivity: Tensor
    prediction: Tensor
    ref_log_prob: Tensor | None = None
    ref_mean: Tensor | None = None
    ref_prediction: Tensor | None = None
    group: Tensor | None = None
    mean_std: Tensor | None = None
    step: Tensor | None = None
    process_advantage: Tensor | None = None
    moves: Tensor | None = None


@dataclass(frozen=True)
class NoisedTerms:
    """Own samples x0 noised to t. Predictions and target are [B, ...]; x0_of turns a prediction into clean latents.

    group: int64 [B], equal for samples of one prompt.
    """

    advantage: Tensor
    x0: Tensor
    x_t: Tensor
    noise_fraction: Tensor
    target: Tensor
    prediction: Tensor
    old_prediction: Tensor | None
    ref_prediction: Tensor | None
    x0_of: object
    group: Tensor | None = None


@dataclass(frozen=True)
class RewardTerms:
    """reward [B], with gradients into the policy; prediction and ref_prediction of the steps that carry them,
    [B, K, ...]."""

    reward: Tensor
    prediction: Tensor
    ref_prediction: Tensor | None


class OnlineObjective(Protocol):
    """Settings and loss of one method. needs: subset of {"reference", "old_mean", "moves", "siblings", "old",
    "sampler"}; the last two are copies of the policy that follow it, see `copy_decay`.

    `select` picks the samples of an update as units of `unit_size` indices; a unit is never split. The loss must
    be a mean over the micro-batch, so that the loop can weigh micro-batches by their size. stale: why it cannot learn
    from samples of an earlier policy, "" where it can. chooses: whether advantages only choose samples, so that those
    of their terms are not read. not_affine: why its gradient is not affine in the advantages, for so many updates an
    epoch and advantages of at most `largest`, "" where it is. credits_steps: whether it learns from
    `process_advantage`. draws: whose own the times and the noise of a `noised` view are, a "sample"'s or a "group"'s.
    centred: whether a group's advantages must add up to 0. ranks_samples: whether advantages of samples teach it
    anything. through_reward: it learns by gradients through the rewards, and not from advantages.
    train_guidance, ref_guidance: guidance scale of what learns (with its old policy) and of the reference, None for the
    rollout's.
    """

    process: ClassVar[str]
    view: ClassVar[str]
    draws: ClassVar[str]
    stale: ClassVar[str]
    chooses: ClassVar[bool]
    through_reward: ClassVar[bool]
    credits_steps: ClassVar[bool]
    centred: ClassVar[bool]
    ranks_samples: ClassVar[bool]

    @property
    def train_guidance(self) -> float | None: ...

    @property
    def ref_guidance(self) -> float | None: ...

    @property
    def least_group(self) -> int: ...

    @property
    def early_steps(self) -> int: ...

    @property
    def needs(self) -> frozenset[str]: ...

    def unit_size(self, group_size: int) -> int: ...

    def select(self, advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]: ...

    def drawn_by(self, updates: int) -> str: ...

    def copy_decay(self, name: str, updates: int) -> float: ...

    def not_affine(self, updates: int, largest: float) -> str: ...

    def __call__(self, terms) -> Outcome: ...


@dataclass(frozen=True)
class OnlineBase(Ranged):
    """Defaults of online methods: every sample is a unit, and the old policy is the policy at the start of the epoch.

    best_of: keep only this many samples of each group, half of them the best and half the worst (DanceGRPO's
    best-of-n); 0 keeps all.

    A method with draws "group" sees whole groups, each at the same times with the same noise, so that what differs
    between samples of a prompt is not blurred by what was drawn: a group is then a unit.
    """

    best_of: FewOrNone = 0

    process: ClassVar[str] = "any"
    unit: ClassVar[int] = 1
    draws: ClassVar[str] = "sample"
    stale: ClassVar[str] = ""
    chooses: ClassVar[bool] = False
    through_reward: ClassVar[bool] = False
    credits_steps: ClassVar[bool] = False
    centred: ClassVar[bool] = False
    ranks_samples: ClassVar[bool] = True
    train_guidance: ClassVar[float | None] = None
    ref_guidance: ClassVar[float | None] = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    def unit_size(self, group_size: int) -> int:
        """Samples that the loss compares, and that one process therefore holds."""
        return group_size if self.draws == "group" else self.unit

    @property
    def early_steps(self) -> int:
        """How many first sampling steps hold something that no later one does, and that a window must not miss."""
        return 0

    @property
    def least_group(self) -> int:
        """Samples of a prompt that `select` must be able to choose from."""
        return self.best_of

    def __post_init__(self):
        super().__post_init__()
        if self.best_of % 2:
            raise ValueError(f"best_of must be an even number, half best and half worst, got {self.best_of}")
        if self.best_of and self.draws == "group":
            raise ValueError(f"best_of {self.best_of} leaves samples out, and draws group trains on whole groups: set "
                             "one of them")

    def select(self, advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]:
        if self.draws == "group":
            return whole_groups(advantages, trained, groups)
        if not self.best_of:
            return [(i,) for i in trained.nonzero().flatten().tolist()]
        kept: list[int] = []
        for members in members_of(groups):
            usable = members[trained[members]]
            order = usable[advantages[usable].argsort(stable=True)]
            half = self.best_of // 2
            kept += order.tolist() if len(order) <= self.best_of else [*order[:half].tolist(), *order[-half:].tolist()]
        return [(i,) for i in sorted(kept)]

    def drawn_by(self, updates: int) -> str:
        """What draws an epoch's samples after so many optimiser steps: "policy", or a copy, "old" or "sampler"."""
        return next((name for name in ("sampler", "old") if name in self.needs), "policy")

    def copy_decay(self, name: str, updates: int) -> float:
        """What remains of a copy of the policy at the end of an epoch: copy <- c copy + (1 - c) current."""
        return self.old_decay(updates) if name == "old" else self.sampler_decay(updates)

    def old_decay(self, updates: int) -> float:
        """Of the old policy."""
        return 0.0

    def sampler_decay(self, updates: int) -> float:
        """Of the copy that draws samples where that is another than the old policy."""
        return 0.0

    def not_affine(self, updates: int, largest: float) -> str:
        """Why the gradients of advantages do not add up as the advantages do, "" where they do."""
        return "its loss bends or selects by the advantage"


def members_of(groups: Tensor) -> list[Tensor]:
    """Indices of each group's samples, in order of first appearance."""
    return [(groups == g).nonzero().flatten() for g in dict.fromkeys(groups.tolist())]


def whole_groups(advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]:
    """The groups of which every sample has an advantage and at least one is trained on."""
    return [tuple(members.tolist()) for members in members_of(groups)
            if trained[members].any() and not advantages[members].isnan().any()]


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|^2 averaged over all non-batch dimensions, [B]."""
    return (a - b).square().flatten(1).mean(1)


def clipped_surrogate(advantage: Tensor, ratio: Tensor, low: float, high: float) -> Tensor:
    """max(-A ratio, -A clip(ratio, 1 - low, 1 + high)), [B] (PPO's pessimistic bound, minimised)."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high))


def ratio_metrics(log_ratio: Tensor, low: float, high: float) -> dict[str, Tensor]:
    """Metrics of ratios, each [B]."""
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    return {"ratio": ratio, "clipped_above": (ratio > 1 + high).float(), "clipped_below": (ratio < 1 - low).float(),
            "approx_kl": ratio - 1 - log_ratio}
