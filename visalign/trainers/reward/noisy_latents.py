"""A guide as the reward loop trains it: on cached latents of both sides, noised afresh at every step.

Both sides of an annotation share one time and one noise, drawn from (seed, step). The generator is not changed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from visalign.data.annotations import Annotation
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.guidance.network import LatentReward
from visalign.media.samples import Sample
from visalign.objectives.reward_model import Filter
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.reward.loop import RewardTrainer

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels at which the trained guide is evaluated."""


@dataclass(frozen=True)
class HeadSettings:
    """The settings of a network that the reward loop needs."""

    dimensions: tuple[str, ...]
    members: int
    frames: int


class NoisyPairs(nn.Module):
    """A guide as a network of the reward loop: cached latents of both sides in, rewards at a drawn time out."""

    def __init__(self, guide: LatentReward, cache: EncodingCache):
        super().__init__()
        self.guide, self.cache = guide, cache
        head = guide.settings
        self.settings = HeadSettings(head.dimensions, head.members, guide.generator.shape.frames or 1)

    def collate(self, samples: list[Sample]) -> dict[str, Tensor]:
        cache = self.cache
        return {"latents": cache.latents([cache.media_key(sample.media) for sample in samples]),
                **cache.conditioning([cache.prompt_key(sample.source_prompt) for sample in samples])}

    def beside(self, outcome: torch.Tensor, step: int) -> None:
        """A guide learns from preferences alone."""

    def filters(self, told: dict[str, Tensor], together: Callable[[Tensor], Tensor]) -> tuple[Filter, ...]:
        """A guide's head learns from all pairs."""
        return ()

    def remembered(self) -> dict[str, nn.Module]:
        """Weights are all that is kept."""
        return {}

    def after_step(self, done: int) -> None:
        """A guide's head changes by its gradients alone."""

    def forward(self, latents: Tensor, fraction: float | None = None, **conditioning: Tensor) -> Tensor:
        """Rewards [2B, E, D]; `fraction` fixes the share of noise for all."""
        process, half = self.guide.generator.process, len(latents) // 2
        drawn = torch.rand(half) if fraction is None else torch.full((half,), fraction)
        t = process.times_at(drawn).repeat(2).to(latents.device)
        noise = torch.randn(latents[:half].shape).repeat(2, *[1] * (latents.ndim - 1)).to(latents.device)
        return self.guide(process.add_noise(latents, noise, t), t, **conditioning)


@torch.no_grad()
def accuracy_by_noise(trainer: RewardTrainer, held_out: list[Annotation], size: int = 32) -> dict:
    """{dimension: {noise fraction: share of decided annotations ordered correctly, with its interval over prompts}}."""
    network, device = trainer.network.eval(), trainer.accelerator.device
    prompts = np.array([item.prompt for item in held_out])
    correct: dict[float, list[torch.Tensor]] = {fraction: [] for fraction in FRACTIONS}
    for start in range(0, len(held_out), size):
        batch = trainer.prepare_items(held_out[start:start + size])
        inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
        decided = (batch.outcome == 0) | (batch.outcome == 1)
        for fraction in FRACTIONS:
            torch.manual_seed(start)
            a, b = network(fraction=fraction, **inputs).mean(1).cpu().chunk(2)
            right = ((a > b) == (batch.outcome > 0.5)).float()
            correct[fraction].append(torch.where(decided, right, float("nan")))
    found: dict[str, dict[str, dict]] = {name: {} for name in network.settings.dimensions}
    for fraction, parts in correct.items():
        for name, column in zip(found, torch.cat(parts).unbind(1), strict=True):
            known = column.isfinite().numpy()
            if known.any():
                share = clustered_mean(column.numpy()[known], prompts[known])
                found[name][f"{fraction:g}"] = share._asdict() | {"annotations": int(known.sum())}
    return found
