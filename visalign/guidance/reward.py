"""A guide's own reward of finished media: the one that following it optimises."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.guidance.network import LatentReward
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel


@dataclass
class GuideReward(RewardModel):
    """One dimension of a guide as a reward of media, at `noise` of the noise range. `of` returns the loaded guide.

    Media are encoded by the guide's generator; each sample's noise is always the same.
    """

    of: Callable[[], LatentReward]
    dimension: str
    modality: str
    noise: float = 0.1
    needs_prompt = True

    def __post_init__(self):
        super().__post_init__()
        self.modalities = frozenset({self.modality})

    def load(self) -> LatentReward:
        return self.of()

    def score_batch(self, samples: list[Sample]) -> Tensor:
        guide: LatentReward = self.network
        generator, process = guide.generator, guide.generator.process
        latents = generator.encode_media(generator.to_pixels([sample.media for sample in samples]))
        t = process.times_at(torch.full((len(samples),), self.noise)).to(latents.device)
        noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(latents)
        texts = generator.encode_prompts([sample.source_prompt for sample in samples])
        rewards = guide(process.add_noise(latents, noise.expand_as(latents), t), t, **texts).mean(1)
        return rewards[:, guide.settings.dimensions.index(self.dimension)]
