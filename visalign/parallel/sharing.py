"""Work that processes share: each does some parts, all get the results in order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


class Doing:
    """What this process does now, and how often it has moved on."""

    what, moves = "starting", 0


def doing(what: str | None = None) -> None:
    """Note that this process moves on, and what it does now; others read it when they wait for too long."""
    Doing.moves += 1
    Doing.what = what or Doing.what


@dataclass(frozen=True)
class Processes:
    """This process's number and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, parts: Sequence[_T], work: Callable[[_T], _R]) -> list[_R]:
        """`work` of every part, in order; part i is done by process i modulo their number. All must call this."""
        mine = []
        for place in range(self.rank, len(parts), self.world):
            mine.append((place, work(parts[place])))
            doing()
        return [result for _, result in sorted(self.gather(mine), key=lambda found: found[0])]

    def gather(self, mine: list[_T]) -> list[_T]:
        """The lists of all processes, one after the other."""
        if self.world == 1:
            return mine
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, mine)
        return [each for of_one in found for each in of_one]

    def told_by_first(self, ask: Callable[[], _R]) -> _R:
        """What the first process answers. All must call this."""
        answer: list[Any] = [ask() if self.is_first else None]
        if self.world > 1:
            import torch.distributed as dist

            dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def most(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return max(self.gather([number]))


ALONE = Processes()
