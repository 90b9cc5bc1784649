"""Which samples of a batch are drawn at a step, where some are still equal: those are drawn once."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from visalign.generators.base import Conditioning, Guidance


def leaf_owners(count: int, branches: Sequence[int], step: int) -> list[int]:
    """Of each of `count` samples, leaves of trees one after the other, the first of those that are still equal to it
    during a step: before each of the branch steps every part of a tree divides in two."""
    leaves = 2**sum(branch > step for branch in branches)
    return [i - i % leaves for i in range(count)]


class DrawnRows:
    """The samples that are drawn, and the place among them of what stands for each sample."""

    def __init__(self, owners: list[int]):
        self.drawn = sorted(set(owners))
        place = {row: i for i, row in enumerate(self.drawn)}
        self.place = [place[owner] for owner in owners]
        self.all = len(self.drawn) == len(owners)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DrawnRows) and self.drawn == other.drawn

    def whole(self, tensor: Tensor) -> Tensor:
        """Of every sample, from what is of the drawn ones."""
        return tensor if self.all else tensor[self.place]

    def only(self, tensor: Tensor) -> Tensor:
        """Of the drawn ones, from what is of every sample."""
        return tensor if self.all else tensor[self.drawn]

    def texts(self, conditioning: Conditioning) -> Conditioning:
        return {name: self.only(tensor) for name, tensor in conditioning.items()}

    def guidance(self, guidance: Guidance | None) -> Guidance | None:
        if guidance is None or guidance.negative is None:
            return guidance
        return replace(guidance, negative=self.texts(guidance.negative))
