"""Which samples of a batch are drawn at a step: those that are still equal are drawn once.

Equal are samples of one prompt from one noise until the first step that adds some (`same_noise`), and with
`rollout.branches` those of one node of a tree: its trunk divides in two before each of these steps.
"""

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from visalign.config import RolloutSettings
from visalign.generators.base import Conditioning, Guidance
from visalign.processes.steps import Moments


def splits_before(settings: RolloutSettings, steps: Tensor) -> Tensor:
    """How often the trunk has divided once a step begins, for steps int64 [...], [...]."""
    return (torch.tensor(settings.split_steps, dtype=torch.int64) <= steps[..., None]).sum(-1)


def noise_scale(settings: RolloutSettings, steps: Tensor) -> Tensor:
    """By what the noise of steps int64 [...] is multiplied, float32 [...]: 1 but where a trunk divides."""
    splits = (torch.tensor(settings.split_steps, dtype=torch.int64) == steps[..., None]).any(-1)
    return torch.where(splits, settings.branches.noise if settings.branches else 1.0, 1.0)


def widened(moments: Moments, settings: RolloutSettings, steps: Tensor) -> Moments:
    """What steps int64 [B] are drawn from and have their log-probability of: with the noise of splits multiplied."""
    return moments._replace(std=moments.std * noise_scale(settings, steps).to(moments.std))


class Trunks:
    """The rows of one batch. beginnings: equal where samples begin alike. alone: the first step at which samples differ
    by their own noise, or are stored."""

    def __init__(self, beginnings: list[Hashable], settings: RolloutSettings, alone: int):
        self.settings, self.alone, self.count = settings, alone, len(beginnings)
        first = {beginning: i for i, beginning in reversed(list(enumerate(beginnings)))}
        self.twins = [first[beginning] for beginning in beginnings]

    def owners(self, j: int) -> list[int]:
        """Of each sample, the first of those that are still equal to it during step j."""
        if self.settings.branches:
            leaves = self.settings.leaves // 2**int(splits_before(self.settings, torch.tensor(j)))
            return [i - i % leaves for i in range(self.count)]
        return self.twins if j < self.alone else list(range(self.count))

    def rows(self, j: int) -> "DrawnRows":
        return DrawnRows(self.owners(j))


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
