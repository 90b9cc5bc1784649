"""How often an epoch visits the items of several sources.

A source with a share of the visits gets that many in each epoch: all of its items several times, or the next part of
them. Which ones is a function of the seed and the epoch alone, so that a run continues to the same bits and does not
depend on how many processes there are.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch

from visalign.sampling.seeds import rng_for


class Mixture:
    """members: of each source, the indices of its items; visits: how many of them an epoch has, in all `length`."""

    def __init__(self, members: Sequence[Sequence[int]], visits: Sequence[int], seed: int):
        self.members, self.each, self.seed = members, tuple(visits), seed
        self.length = sum(self.each)

    def visits(self, epoch: int) -> list[int]:
        """The indices of the items that an epoch visits, source by source."""
        return [index for source in range(len(self.members)) for index in self._of_source(source, epoch)]

    def _of_source(self, source: int, epoch: int) -> Iterator[int]:
        """The next visits of a source, in an endless order of its own: every item once before any comes again."""
        members, many = self.members[source], self.each[source]
        first, order, turn = epoch * many, [], -1
        for place in range(first, first + many):
            now, offset = divmod(place, len(members))
            if now != turn:
                rng = rng_for("mixture", self.seed, source, now)
                turn, order = now, torch.randperm(len(members), generator=rng).tolist()
            yield members[order[offset]]


def visits_of(sizes: Sequence[int], shares: Sequence[float | None]) -> list[int]:
    """How many visits each source gets in an epoch, by its number of items and, where it has one, its share of all.

    A source without a share is visited once an item, which fixes the length of the epoch. Where all have one, the
    shortest epoch is taken that visits every item.
    """
    exact = [None if share is None else Fraction(str(share)) for share in shares]
    without = sum(size for size, share in zip(sizes, exact, strict=True) if share is None)
    if without:
        length = without / (1 - sum(filter(None, exact)))
    else:
        length = max(size / share for size, share in zip(sizes, exact, strict=True))
    return [size if share is None else max(1, round(length * share)) for size, share in zip(sizes, exact, strict=True)]
