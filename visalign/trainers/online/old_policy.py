"""A second set of the trainable weights: the policy that sampled, following the one that learns."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


class OldPolicy:
    """Float32 copies of the trainable parameters, put in place while they are needed."""

    def __init__(self, parameters: list[nn.Parameter]):
        self.parameters = parameters
        self.values = [p.detach().float().clone() for p in parameters]

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Within: the generator is the old policy. No graph of the current one may be alive."""
        current = [p.detach().clone() for p in self.parameters]
        self._put(self.values)
        try:
            yield
        finally:
            self._put(current)

    @torch.no_grad()
    def _put(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """old <- decay old + (1 - decay) current."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.float(), 1 - decay)

    def distance(self) -> float:
        """Root of the mean squared difference from the current weights."""
        total = sum((v - p.detach().float()).square().sum().item()
                    for v, p in zip(self.values, self.parameters, strict=True))
        return (total / sum(v.numel() for v in self.values)) ** 0.5

    def state_dict(self) -> dict:
        return {"values": [value.cpu() for value in self.values]}

    def load_state_dict(self, state: dict) -> None:
        for mine, saved in zip(self.values, state["values"], strict=True):
            mine.copy_(saved)
