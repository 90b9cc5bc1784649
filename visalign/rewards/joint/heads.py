"""Heads of the unified reward: from a backbone's features to what its loss compares.

A head is a module that JointNetwork builds with `of` and calls as head(features [B, 1 or D, d], **what `collate`
gives). HEADS in network.py names each one.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visalign.config import JointSettings
from visalign.errors import UserError, notice
from visalign.media.samples import Sample
from visalign.objectives.base import Outcome
from visalign.storage.hashed_users import hashed_user

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


def learnt_users(items: list[Labelled], least: int, setting: str, source: str) -> tuple[list[Labelled], KnownUsers]:
    """Pairs of users who have `least` of them, and those users; the others are counted in a notice.

    setting: of the head that asks. Raises UserError where no pair says whose it is, or fewer than two users are left.
    """
    counts = Counter(item.user for item in items)
    nobody = counts.pop(None, 0)
    if not counts:
        raise UserError(f"data {source}: none of {nobody} training pairs says whose it is, and {setting} "
                        f"learns who prefers what; add the column user, or leave {setting} out")
    users = {user for user, count in counts.items() if count >= least}
    if len(users) < 2:
        raise UserError(f"data {source}: {len(users)} of {len(counts)} users have the {least} training pairs that "
                        f"{setting}.least asks for (the most are {max(counts.values())}), and tastes are told apart "
                        f"between two users at least; add pairs, or leave {setting} out")
    kept = [item for item in items if item.user in users]
    if len(kept) < len(items):
        notice(f"{setting}: {len(items) - len(kept)} of {len(items)} pairs are left out, {nobody} of nobody and the "
               f"others of {len(counts) - len(users)} users with fewer than {least}")
    names = tuple(sorted(users))
    return kept, KnownUsers(names, len(names), tuple(counts[name] for name in names))


def whose(users: KnownUsers, settings: JointSettings, source: str, user: str | None,
          prototype: int | None) -> dict[str, int]:
    """The place of the user, or of the prototype, that a reward is asked for; {} where it is asked for neither.

    Raises UserError for one that it does not know.
    """
    if user is None and prototype is None:
        return {}
    if user is not None and prototype is not None:
        raise UserError(f"reward {source}: user {user} and prototype {prototype} both say whose reward it is; give one")
    if all(getattr(settings, name) is None for name in ("ideal_points", "variational", "groups")):
        raise UserError(f"reward {source}: knows nobody's taste, since its head is {settings.head}; leave user and "
                        "prototype out, or train one with model.ideal_points, model.variational or model.groups")
    if prototype is not None:
        return {"user": len(users.names) + _prototype(settings, source, prototype)}
    if hashed_user(user) not in users.names:
        raise UserError(f"reward {source}: knows no user {user}, of {len(users.names)}; add them with `visalign reward "
                        "fit-user`, or leave user out for the reward of nobody in particular")
    return {"user": users.names.index(hashed_user(user))}


def _prototype(settings: JointSettings, source: str, number: int) -> int:
    """Its place among the prototypes. Raises UserError where there is none of that number."""
    count = settings.ideal_points.prototypes if settings.ideal_points else settings.groups and settings.groups.count
    if count is None:
        raise UserError(f"reward {source}: its head is {settings.head}, which has no prototypes; give user instead of "
                        f"prototype {number}")
    if settings.members > 1:
        raise UserError(f"reward {source}: has {settings.members} members, whose prototypes {number} are not "
                        "the same; train it with model.members=1 to score by a prototype")
    if number >= count:
        raise UserError(f"reward {source}: has the prototypes 0 to {count - 1}, not {number}")
    return number


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

    def belief_of(self, a: Tensor, b: Tensor, said: Tensor) -> Any:
        """Who a person may be whose pairs have features a and b [P, 1 or D, d] and labels [P, D] (1: a, 0: b)."""
        raise NotImplementedError(f"{type(self).__name__} knows nobody")

    def belief_at(self, place: int | None) -> Any:
        """The same of a known user's place; None for anybody."""
        raise NotImplementedError(f"{type(self).__name__} knows nobody")

    def views(self, features: Tensor, belief: Any) -> tuple[Tensor, Tensor | None]:
        """Rewards [S, n, E, D] for each of S people that a person may be, and the weights of those, [S, E, 1, D], None
        where they are alike."""
        raise NotImplementedError(f"{type(self).__name__} knows nobody")

    def place_of(self, user: str | None) -> int:
        """Of a hashed name; NOBODY for None and for whom the head does not know."""
        return self.places.get(user, NOBODY)

    @cached_property
    def places(self) -> dict[str | None, int]:
        return {name: place for place, name in enumerate(self.users.names)}


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
