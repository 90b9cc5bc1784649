"""Samples that grew as trees: which of them shared their first sampling steps, and before which step they parted.

Before each of n branch steps every part of a tree divides in two, so a tree has 2^n leaves. samples.jsonl says of each
leaf {"tree": its tree among those of its prompt, "number": its place in the tree, "branches": the branch steps}.
"""

from dataclasses import dataclass
from typing import Any

from visalign.errors import UserError

MOST_BRANCHES = 5
LEAF = "leaf"
"""The column of a leaf in a manifest."""


@dataclass(frozen=True)
class Leaf:
    """number: from 0; its binary digits, the first branch step's first, say which half it took at each. branches: the
    branch steps, rising, from 0."""

    tree: int
    number: int
    branches: tuple[int, ...]

    def parted_from(self, other: "Leaf") -> int:
        """The step before which two leaves of one tree parted."""
        apart = (self.number ^ other.number).bit_length()
        if not apart or (self.tree, self.branches) != (other.tree, other.branches):
            raise ValueError(f"{self} and {other} are not two leaves of one tree")
        return self.branches[-apart]

    def as_row(self) -> dict:
        return {LEAF: {"tree": self.tree, "number": self.number, "branches": list(self.branches)}}


def leaf_at(place: int, branches: tuple[int, ...]) -> Leaf:
    """The leaf at a place among its prompt's samples, trees one after the other."""
    return Leaf(*divmod(place, 2**len(branches)), branches)


def leaf_of_row(row: dict, where: str) -> Leaf | None:
    """The leaf that a manifest's row says its sample is, None of other samples. Raises UserError for an unusable one.
    """
    said = row.get(LEAF)
    if not isinstance(said, dict):
        return None
    branches = said.get("branches")
    if not (_count(said.get("tree")) and _count(said.get("number")) and isinstance(branches, list)
            and all(map(_count, branches)) and sorted(set(branches)) == branches
            and 0 < len(branches) <= MOST_BRANCHES and said["number"] < 2**len(branches)):
        raise UserError(f"{where}: {LEAF} is {said}; expected a tree, a number below 2 to the number of branches, and "
                        "rising branches")
    return Leaf(said["tree"], said["number"], tuple(branches))


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
