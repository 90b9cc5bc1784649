"""Heads of the unified reward: from a backbone's features to what its loss compares.

A head is a module that JointNetwork builds with `of` and calls as head(features [B, 1 or D, d], **what `collate`
gives). HEADS in network.py names each one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.media.samples import Sample
from visalign.objectives.base import Outcome

NOBODY = -1
"""The place of a sample that is nobody's in particular."""


class ByUser(Protocol):
    """An annotation, as far as a head asks: whose it is."""

    user: str | None


Labelled = TypeVar("Labelled", bound=ByUser)


class Backbone(Protocol):
    """As far as a head asks. features: numbers that it gives. prompt: where among them those of the prompt alone are,
    None where they cannot be told apart."""

    features: int
    prompt: slice | None


@dataclass(frozen=True)
class KnownUsers:
    """Hashed names of the users whom a head knows; the first `learnt` were learnt from, later ones added. pairs: how
    many are learnt from of each, while a run goes on."""

    names: tuple[str, ...] = ()
    learnt: int = 0
    pairs: tuple[int, ...] = field(default=(), compare=False)

    def as_kept(self) -> dict[str, Any]:
        """What a reward's folder says of them."""
        return {"names": self.names, "learnt": self.learnt}


NOBODY_KNOWN = KnownUsers()


class Head(nn.Module, ABC):
    """What all heads have; the defaults are of one that asks for nobody.

    gives: `rewards` [B, E, D], or `embeddings`, which only a comparison makes sense of. scored_by: the kind of reward
    that its folder is. reads: names of what `collate` gives. divides: whether processes may each hold a part of it.
    continues: whether another training may go on from it. context_pairs: how many other pairs of the same user it is
    shown beside each pair that is learnt from, at most.
    """

    gives: ClassVar[str] = "rewards"
    scored_by: ClassVar[str] = "joint"
    reads: ClassVar[tuple[str, ...]] = ()
    divides: ClassVar[bool] = True
    continues: ClassVar[bool] = True
    context_pairs: int = 0
    users: KnownUsers = NOBODY_KNOWN

    @classmethod
    @abstractmethod
    def of(cls, settings: JointSettings, backbone: Backbone, users: KnownUsers = NOBODY_KNOWN) -> "Head":
        """The head on a backbone, that knows `users`."""

    @classmethod
    def learns_from(cls, items: list[Labelled], settings: JointSettings,
                    source: str) -> tuple[list[Labelled], KnownUsers]:
        """What is learnt from, and the users whom the head will know. Raises UserError where there is too little."""
        return items, NOBODY_KNOWN

    @classmethod
    def own_rates(cls, settings: JointSettings) -> dict[str, float]:
        """Learning rates of tensors that have their own, by name, relative to optim.lr."""
        return {}

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        """What the head is told of samples beside their features, each [B]."""
        return {}

    def read_as(self, features: Tensor) -> Tensor:
        """Features as the head's first layer reads them, of the same shape."""
        return self.norm(features)

    def about(self) -> dict[str, Any]:
        """What is kept in the reward's JSON."""
        return {}

    def told(self) -> list[str]:
        """What a person should know of the trained head."""
        return []

    def beside(self, outcome: Tensor, step: int) -> Outcome | None:
        """What is learnt beside the preferences of the batch that passed last, with metrics [B] or [B, D], where there
        is such a thing. outcome: labels [B, D]. step: how many were made before."""
        return None

    def filters(self, told: dict[str, Tensor],
                together: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], ...]:
        """How much each member learns from each pair of a batch, from its losses (objectives/reward_model.py).

        told: what `collate` gave of the batch. together: the rows of all processes from those of one.
        """
        return ()

    def remembered(self) -> dict[str, nn.Module]:
        """What a checkpoint keeps beside the weights, by name."""
        return {}

    def after_step(self, done: int) -> None:
        """Called after each optimiser step, the same on every process."""


class Heads(Head):
    """An ensemble: features [B, 1 or D, d] -> rewards [B, E, D]; members share nothing.

    outputs: numbers of each, [B, E, D, outputs], instead of one reward.
    """

    def __init__(self, features: int, dimensions: int, members: int, hidden: int, outputs: int | None = None):
        super().__init__()
        last = () if outputs is None else (outputs,)
        self.norm = nn.LayerNorm(features)
        self.first = nn.Parameter(torch.randn(members, dimensions, features, hidden) * features**-0.5)
        self.first_bias = nn.Parameter(torch.zeros(members, dimensions, hidden))
        self.second = nn.Parameter(torch.randn(members, dimensions, hidden, *last) * hidden**-0.5)

    @classmethod
    def of(cls, settings: JointSettings, backbone: Backbone, users: KnownUsers = NOBODY_KNOWN) -> "Heads":
        return cls(backbone.features, len(settings.dimensions), settings.members, settings.width)

    def forward(self, features: Tensor) -> Tensor:
        x = self.norm(features).expand(-1, self.first.shape[1], -1)
        hidden = F.gelu(torch.einsum("bdf,edfh->bedh", x, self.first.to(x)) + self.first_bias.to(x))
        return torch.einsum("bedh,edh...->bed...", hidden, self.second.to(x)).float()


def vectors(settings: JointSettings, features: int, outputs: int) -> Heads:
    """Heads that give each member `outputs` numbers in each dimension, [B, E, D, outputs]."""
    return Heads(features, len(settings.dimensions), settings.members, settings.width, outputs)


class MemberLinear(nn.Module):
    """A linear layer of each member and dimension: [..., 1 or E, D, inputs] -> [..., E, D, outputs]."""

    def __init__(self, settings: JointSettings, inputs: int, outputs: int):
        super().__init__()
        shape = settings.members, len(settings.dimensions)
        self.weight = nn.Parameter(torch.randn(*shape, inputs, outputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(*shape, outputs))

    def forward(self, x: Tensor) -> Tensor:
        x = x.expand(*x.shape[:-3], *self.weight.shape[:2], -1)
        return torch.einsum("...i,...io->...o", x, self.weight.to(x)) + self.bias.to(x)
