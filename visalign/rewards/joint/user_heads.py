"""Heads of a reward that knows users: what those have in common, and whose reward one is asked for."""

from abc import abstractmethod
from collections import Counter
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from visalign.config import JointSettings
from visalign.config.reward import USER_HEADS
from visalign.errors import UserError, notice
from visalign.media.samples import Sample
from visalign.rewards.joint.heads import NOBODY, NOBODY_KNOWN, Backbone, Head, KnownUsers, Labelled
from visalign.storage.hashed_users import hashed_user


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
    if all(getattr(settings, name) is None for name in USER_HEADS):
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


class UserHead(Head):
    """features [n, 1 or D, d] and users' places [n] -> rewards [n, E, D].

    Places are those of the users, in order, NOBODY for nobody in particular; a head says what lies after the users.
    named: the setting that asks for it.
    """

    named: ClassVar[str]
    reads = ("user",)
    divides = False
    continues = False

    def __init__(self, settings: JointSettings, backbone: Backbone, users: KnownUsers):
        super().__init__()
        self.members, self.dimensions, self.users = settings.members, settings.dimensions, users

    @classmethod
    def of(cls, settings: JointSettings, backbone: Backbone, users: KnownUsers = NOBODY_KNOWN) -> "UserHead":
        return cls(settings, backbone, users)

    @classmethod
    def learns_from(cls, items: list[Labelled], settings: JointSettings,
                    source: str) -> tuple[list[Labelled], KnownUsers]:
        return learnt_users(items, getattr(settings, cls.named).least, f"model.{cls.named}", source)

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        return {"user": torch.tensor([self.place_of(sample.known.get("user")) for sample in samples])}

    def place_of(self, user: str | None) -> int:
        """Of a hashed name; NOBODY for None and for whom the head does not know."""
        return self.places.get(user, NOBODY)

    @cached_property
    def places(self) -> dict[str | None, int]:
        return {name: place for place, name in enumerate(self.users.names)}

    @abstractmethod
    def belief_of(self, a: Tensor, b: Tensor, said: Tensor) -> Any:
        """Who a person may be whose pairs have features a and b [P, 1 or D, d] and labels [P, D] (1: a, 0: b)."""

    @abstractmethod
    def belief_at(self, place: int | None) -> Any:
        """The same of a known user's place; None for anybody."""

    @abstractmethod
    def views(self, features: Tensor, belief: Any) -> tuple[Tensor, Tensor | None]:
        """Rewards [S, n, E, D] for each of S people that a person may be, and the weights of those, [S, E, 1, D], None
        where they are alike."""
