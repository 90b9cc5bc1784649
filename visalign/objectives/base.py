"""Inputs and outputs of an offline objective."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from visalign.objectives.links import Labels
from visalign.validation.ranges import Ranged


def of_one_process(mean: Tensor) -> Tensor:
    """The mean of a tensor over processes where there is one."""
    return mean


@dataclass(frozen=True)
class PairErrors(Labels):
    """Prediction errors of one batch of pairs, or of single samples; every tensor is float32 [B] unless said.

    An error is the squared distance between prediction and target, averaged over all non-batch dimensions. `chosen`
    and `rejected` are the policy's, `ref_*` the frozen reference's; what an objective does not need is None.
    `noise_fraction` is 0 at data and 1 at pure noise, of the chosen sample where each has its own. `strength` says how
    much better the chosen sample is (1 where the data do not say). Rewards are standardised as the objective says.
    desirable [B] bool: of single samples, which are the chosen ones here, whether they are good. anchor, ref_anchor:
    errors on the chosen sample at further times and noises, summed. log_snr: of the noised latents, log(alpha^2 /
    sigma^2). across: mean of a tensor over the processes that share the batch.
    """

    chosen: Tensor
    noise_fraction: Tensor
    strength: Tensor
    rejected: Tensor | None = None
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    chosen_reward: Tensor | None = None
    rejected_reward: Tensor | None = None
    desirable: Tensor | None = None
    anchor: Tensor | None = None
    ref_anchor: Tensor | None = None
    log_snr: Tensor | None = None
    across: Callable[[Tensor], Tensor] = of_one_process

    def reward_gap(self, name: str) -> Tensor:
        """Reward of the chosen sample minus that of the rejected one, [B]; pairs of images carry one reward."""
        if self.chosen_reward is None or self.rejected_reward is None:
            raise ValueError(f"the pairs carry no reward {name}")
        return self.chosen_reward - self.rejected_reward


class Outcome(NamedTuple):
    """A scalar loss to minimise and named per-pair metrics [B] (detached). apart: the part of the loss that no
    advantage enters, such as a KL, where updates tell it from the rest."""

    loss: Tensor
    metrics: dict[str, Tensor]
    apart: Tensor | None = None


class SamplePasses(NamedTuple):
    """How often a sample passes through the network in a step."""

    with_gradient: int
    without: int


class Objective(Protocol):
    """Settings and loss of one method.

    process: "diffusion", "flow" or "any". needs: subset of {"rejected", "reference", "rewards", "desirable", "own"}:
    "desirable" is for single samples that are good or bad, "own" for rejected samples that the run makes itself, where
    the data need none. sides: of which samples errors are taken. states: where the noised latents come from at which
    they are, a name in `trainers.offline.states.STATES`. passes: what a step costs. guided: whether a step guides away
    from the empty prompt, which has to be encoded then.
    """

    process: ClassVar[str]
    states: ClassVar[str]

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def sides(self) -> tuple[str, ...]: ...

    @property
    def passes(self) -> SamplePasses: ...

    @property
    def guided(self) -> bool: ...

    def __call__(self, errors: PairErrors) -> Outcome: ...


@dataclass(frozen=True)
class OfflineBase(Ranged):
    """Defaults of offline methods: any process, the chosen samples alone, noised at a random time."""

    process: ClassVar[str] = "any"
    states: ClassVar[str] = "noised"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def sides(self) -> tuple[str, ...]:
        return ("chosen", "rejected") if self.needs & {"rejected", "own"} else ("chosen",)

    @property
    def passes(self) -> SamplePasses:
        return SamplePasses(1, int("reference" in self.needs))

    @property
    def guided(self) -> bool:
        return False

    def time_weight(self, noise_fraction: Tensor) -> Tensor:
        """How much an error counts at its noise level, beta_t / beta of methods with a beta, [B]."""
        return torch.ones_like(noise_fraction)
