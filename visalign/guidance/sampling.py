"""Sampling that follows a latent reward: Flow-NRG, reward guidance on noisy latents (Liu et al. 2025, 2501.13918).

Tilting p_t by exp(w r_t) adds w grad r_t to its score, which moves the prediction by `process.tilt(t)` times as much:
    v~ = v - t / (1 - t) * sum_d w_d grad r_d(x_t, t, prompt)          for a flow.
Differs from the paper in: the term may be at most `most` times as large as the prediction (root mean squares), so that
a large weight ends in a distorted sample rather than in none.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.errors import UserError, nearest
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.generators.observe.sampling import OnStep
from visalign.guidance.network import LatentReward
from visalign.media.samples import Media


@dataclass(frozen=True)
class Guiding:
    """weights: by dimension, in units of log-odds. first, last: the part of the noise range, from 1 (pure noise) to 0
    (data), in which the guide is followed. most: largest size of the added term, relative to the prediction."""

    weights: dict[str, float]
    first: float = 0.95
    last: float = 0.05
    most: float = 1.0

    def __post_init__(self):
        if not 0 <= self.last < self.first <= 1:
            raise UserError(f"guide range {self.first}:{self.last}: must run from 1 (pure noise) down to 0 (data)")
        if self.most <= 0:
            raise UserError(f"guide clip {self.most}: must be greater than 0")

    def check(self, dimensions: tuple[str, ...]) -> None:
        """Raise UserError for a dimension that the guide does not have."""
        for name in self.weights:
            if name not in dimensions:
                raise UserError(f"guide: there is no dimension '{name}'{nearest(name, dimensions)} (it has "
                                f"{', '.join(dimensions)})")


class Guided:
    """A generator whose `sample` follows a guide; everything else is the generator's own."""

    def __init__(self, generator: Generator, guide: LatentReward, guiding: Guiding):
        guiding.check(guide.settings.dimensions)
        self.generator, self.guide, self.guiding = generator, guide, guiding
        self.weights = torch.tensor([guiding.weights.get(name, 0.0) for name in guide.settings.dimensions],
                                    device=generator.device)

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance_scale: float, batch_size: int = 16,
               negative_prompt: str | None = None, on_step: OnStep | None = None) -> Iterator[list[Media]]:
        """As the generator's, by its process's deterministic sampler; yields one batch at a time."""
        for start in range(0, len(prompts), batch_size):
            batch, own = prompts[start:start + batch_size], seeds[start:start + batch_size]
            texts = self.generator.encode_prompts(batch)
            negative = self.generator.encode_negatives(batch, negative_prompt)
            shape = self.generator.latent_shape()
            noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in own]
            yield self.generator.decode(self.latents(torch.stack(noise).to(self.generator.device), texts,
                                                     Guidance(guidance_scale, negative), steps, on_step))

    @torch.no_grad()
    def latents(self, x: Tensor, texts: Conditioning, guidance: Guidance, steps: int,
                on_step: OnStep | None = None) -> Tensor:
        """Clean latents from noise [B, ...]."""
        generator, process = self.generator, self.generator.process
        times = generator.schedule(steps).to(x.device)
        for number, (now, then) in enumerate(zip(times, times[1:], strict=False), 1):
            t, t_next = now.repeat(len(x)), then.repeat(len(x))
            prediction = generator.predict(x, t, texts, guidance)
            if self.guiding.last <= process.noise_fraction(t[:1]).item() <= self.guiding.first:
                prediction = prediction + self.term(x, t, texts, prediction)
            x = process.moments(prediction, x, t, t_next).mean
            if on_step:
                on_step(number, steps)
        return generator.replay.finished(x, texts)

    def term(self, x: Tensor, t: Tensor, texts: Conditioning, prediction: Tensor) -> Tensor:
        """What the guide adds to the prediction at latents [B, ...]."""
        with torch.enable_grad():
            latents = x.detach().requires_grad_(True)
            reward = (self.guide(latents, t, **texts).mean(1) * self.weights).sum()
            gradient = torch.autograd.grad(reward, latents)[0]
        ones = [1] * (x.ndim - 1)
        added = self.generator.process.tilt(t).to(x).view(-1, *ones) * gradient
        size = root_mean_square(added) / root_mean_square(prediction).clamp(min=1e-12)
        return added * (self.guiding.most / size.clamp(min=self.guiding.most)).view(-1, *ones)


def root_mean_square(tensor: Tensor) -> Tensor:
    """Of each sample, [B]."""
    return tensor.flatten(1).square().mean(1).sqrt()
