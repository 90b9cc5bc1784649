"""Which samples of a batch are drawn at a step: those that are still equal are drawn once.

Equal are samples of one prompt from one noise until the first step that adds some (`same_noise`), and with
`rollout.branches` those of one node of a tree: its trunk divides in two before each of these steps.
"""

from collections.abc import Hashable

import torch
from torch import Tensor

from visalign.config import RolloutSettings
from visalign.processes.steps import Moments
from visalign.sampling.drawn_rows import DrawnRows, leaf_owners


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
            return leaf_owners(self.count, self.settings.split_steps, j)
        return self.twins if j < self.alone else list(range(self.count))

    def rows(self, j: int) -> DrawnRows:
        return DrawnRows(self.owners(j))

