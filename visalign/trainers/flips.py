"""The share of flipped labels that `forward_rate: learn` finds, in a run: the same on every process, and part of a
checkpoint."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.objectives.label_noise import FlipRate, LabelNoise


class LearntFlips:
    """labels: how many the run learns from. Where the objective learns no share, nothing is kept and nothing logged."""

    def __init__(self, objective: Any, labels: int, accelerator: Accelerator):
        self.accelerator = accelerator
        learns = getattr(objective, "noise", LabelNoise()).learns
        self.share = FlipRate(labels, accelerator.device) if learns else None
        self._slopes: list[Tensor] = []

    @property
    def kept(self) -> dict[str, FlipRate]:
        """What a checkpoint keeps."""
        return {"flips": self.share} if self.share else {}

    @property
    def logit(self) -> Tensor | None:
        """What a batch brings to the objective."""
        return self.share.logit if self.share else None

    def seen(self, loss: Tensor) -> None:
        """Remember the slope of a micro-batch's loss, before it is learnt from."""
        if self.share:
            self._slopes.append(self.share.slope(loss))

    def after_step(self) -> dict[str, float]:
        """Follow the mean slope of all micro-batches and processes; what is logged."""
        if not self.share:
            return {}
        self.share.follow(self.accelerator.reduce(torch.stack(self._slopes).mean(), "mean"))
        self._slopes.clear()
        return {"forward_rate": self.share.rate}
