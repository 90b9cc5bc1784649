"""Snapshots of the policy: float32 copies of the trainable tensors, which stand in for the current ones while needed.

One `Snapshot` is what DiffusionNFT and AWM call the old policy; `Snapshots` is a bounded pool of them, for references
drawn from a run's own past. Both have a state_dict, so that as `TrainingState.extras` they are restored to the bit.
With LoRA a snapshot takes a few MB.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from visalign.parallel.tensors import laid_out


class Snapshot:
    """The trainable parameters as they are now, kept in float32 on their device."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.values = [p.detach().float().clone() for p in parameters]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """A context in which the generator is this snapshot; afterwards it is the current policy to the bit.

        No graph of the current policy may be alive.
        """
        current = [p.detach().clone() for p in self.parameters]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(current)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def distance(self) -> float:
        """Root of the mean squared difference from the current weights."""
        total = sum((v - p.detach().float()).square().sum().item()
                    for v, p in zip(self.values, self.parameters, strict=True))
        return (total / sum(v.numel() for v in self.values)) ** 0.5

    def state_dict(self) -> dict:
        return {"values": [value.cpu() for value in self.values]}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.values, state["values"], strict=True):
            mine.copy_(laid_out(saved, mine))


class Snapshots:
    """The last `keep` snapshots of a run, by the number (of a step or a round) they were taken at."""

    def __init__(self, parameters: list[nn.Parameter], keep: int):
        self.parameters, self.keep = parameters, keep
        self.taken: dict[int, Snapshot] = {}

    def __len__(self) -> int:
        return len(self.taken)

    def take(self, number: int) -> None:
        """Add the current policy; the oldest goes when there are too many."""
        self.taken[number] = Snapshot(self.parameters)
        while len(self.taken) > self.keep:
            del self.taken[next(iter(self.taken))]

    def draw(self, rng: torch.Generator) -> tuple[int, Snapshot]:
        """A uniformly random one, and its number."""
        number = one_of(list(self.taken), rng)
        return number, self.taken[number]

    def state_dict(self) -> dict:
        return {"taken": {number: each.state_dict() for number, each in self.taken.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.taken = {}
        for number, saved in state["taken"].items():
            self.taken[number] = Snapshot(self.parameters)
            self.taken[number].load_state_dict(saved)


def one_of(numbers: Sequence[int], rng: torch.Generator) -> int:
    """A uniformly random one of these."""
    return numbers[int(torch.randint(len(numbers), (), generator=rng))]
