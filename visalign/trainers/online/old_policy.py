"""A second set of the trainable weights: the policy that sampled, following the one that learns."""

import torch

from visalign.trainers.snapshots import Snapshot


class OldPolicy(Snapshot):
    """A snapshot that moves: taken as the run starts, and drawn towards the current policy after each epoch."""

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """old <- decay old + (1 - decay) current."""
        for value, parameter in zip(self.values, self.parameters, strict=True):
            value.lerp_(parameter.float(), 1 - decay)
