"""The embedded reward of an edit: how much of what an instruction asks for was done, and how much else was kept."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visalign.media.emoji_edits import EDITS, score_edit
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel


@dataclass
class EmojiEdit(RewardModel):
    """The share of the instruction that was done times how well the rest was kept, in [0, 1]: measured, no network.

    Knows the instructions of the embedded edits on things drawn on a plain background; 0 for the source unchanged.
    """

    dimensions: ClassVar[tuple[str, ...]] = ("score", "done", "kept")
    needs_prompt: ClassVar[bool] = True
    needs_sources: ClassVar[bool] = True
    score_range: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        if refused or sample.prompt.strip() in EDITS:
            return refused
        return f"knows the embedded edits only ({', '.join(list(EDITS)[:3])} ...)"

    def score_batch(self, samples: list[Sample]) -> Tensor:
        return torch.tensor([self._scores(sample) for sample in samples], dtype=torch.float32)

    def _scores(self, sample: Sample) -> tuple[float, float, float]:
        found = score_edit(sample.prompt.strip(), sample.sources[0], sample.image)
        return (found.product, found.done, found.kept) if found else (float("nan"),) * 3
