"""Which items a run learns from, and in which order."""

import hashlib
from typing import Generic, Protocol, TypeVar

import torch

from visalign.errors import UserError


class HasPrompt(Protocol):
    @property
    def prompt(self) -> str: ...


Prompted = TypeVar("Prompted", bound=HasPrompt)


def split_by_prompt(items: list[Prompted], holdout: float) -> tuple[list[Prompted], list[Prompted]]:
    """Training and held-out items; a prompt is wholly on one side, chosen by the hash of its text."""
    def held_out(prompt: str) -> bool:
        return int(hashlib.sha256(f"held out {prompt}".encode()).hexdigest()[:8], 16) / 2**32 < holdout

    train = [item for item in items if not held_out(item.prompt)]
    if not train:
        raise UserError(f"data.holdout {holdout}: leaves nothing to train on; the set has "
                        f"{len({i.prompt for i in items})} prompts")
    return train, [item for item in items if held_out(item.prompt)]


class DataOrder(Generic[Prompted]):
    """An endless shuffled order over items in which place `p` always holds the same item, whatever the world size."""

    def __init__(self, items: list[Prompted], seed: int):
        self.items, self.seed = items, seed
        self._epoch, self._order = -1, []

    def __getitem__(self, place: int) -> Prompted:
        return self.items[self.index(place)]

    def index(self, place: int) -> int:
        """The number of the item at `place`."""
        epoch, offset = divmod(place, len(self.items))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 7919 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.items), generator=generator).tolist()
        return self._order[offset]
