"""From annotations to a latent reward: the reward loop, on latents noised afresh at every step.

Both sides of an annotation share one time and one noise, drawn from (seed, step). The generator is not changed.

Run:  visalign guide train configs/guide/tiny_wan.yaml
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from visalign.config import GuideConfig
from visalign.data.annotations import Annotation
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.generators import load_generator, locate_model
from visalign.generators.prompt_length import say_what_is_cut
from visalign.generators.video_speed import say_speeds
from visalign.guidance.network import LatentReward, save_guide
from visalign.jobs.reward_train import annotations_of, open_run
from visalign.media.samples import Sample
from visalign.sampling.encoding_cache import EncodingCache
from visalign.storage.run_folder import write_atomically
from visalign.trainers.optim import check_optimizer
from visalign.trainers.reward.loop import RewardTrainer
from visalign.trainers.stopping import heard

FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Noise levels at which the trained guide is evaluated."""


@dataclass(frozen=True)
class HeadSettings:
    """What the reward loop asks of a network's settings."""

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
                **cache.conditioning([cache.prompt_key(sample.prompt) for sample in samples])}

    def forward(self, latents: Tensor, fraction: float | None = None, **conditioning: Tensor) -> Tensor:
        """Rewards [2B, E, D]; `fraction` fixes the share of noise for all."""
        process, half = self.guide.generator.process, len(latents) // 2
        drawn = torch.rand(half) if fraction is None else torch.full((half,), fraction)
        t = process.times_at(drawn).repeat(2).to(latents.device)
        noise = torch.randn(latents[:half].shape).repeat(2, *[1] * (latents.ndim - 1)).to(latents.device)
        return self.guide(process.add_noise(latents, noise, t), t, **conditioning)


@heard()
def train_guide(config: GuideConfig, resume: bool = False) -> Path:
    """Encode every item once, train, save to `guide/` in the run's folder with its accuracy by noise level.

    Raises UserError for anything the user can fix.
    """
    locate_model(config.model)
    check_optimizer(config.optim)
    items, held_out = annotations_of(config.data, config.head.dimensions, config.train.seed)
    accelerator, run = open_run(config, resume)
    generator = load_generator(config.model, accelerator.device)
    torch.manual_seed(config.train.seed)  # the head must start equal on every process and after a restart
    guide = LatentReward(generator, config.head).to(accelerator.device)
    pairs = NoisyPairs(guide, EncodingCache(config.data.cache, generator))
    encode(items + held_out, pairs.cache, accelerator.process_index, accelerator.num_processes)
    accelerator.wait_for_everyone()
    trainer = RewardTrainer(config, pairs, items, run, accelerator)
    with trainer.started():
        trainer.fit()
        if accelerator.is_main_process:
            found = accuracy_by_noise(trainer, held_out) if held_out else {}
            about = {"trained on": {"annotations": len(items), "prompts": len({item.prompt for item in items}),
                                    "objective": config.objective, "steps": config.train.steps}, "accuracy": found}
            save_guide(run.path / "guide", guide, config.model, about)
            write_atomically(run.path / "accuracy.json", (json.dumps(found, indent=2) + "\n").encode())
        accelerator.wait_for_everyone()
    accelerator.end_training()
    return run.path


def encode(items: list[Annotation], cache: EncodingCache, rank: int, world: int, batch: int = 16) -> None:
    """Put both sides of this process's share of the items into the cache.

    Raises UserError naming a row whose medium is not of the generator's modality.
    """
    generator, speeds = cache.generator, []
    say_what_is_cut(generator, [side.prompt for item in items for side in (item.a, item.b)], "annotations")
    mine = items[rank::world]
    for start in tqdm(range(0, len(mine), batch), desc="encoding annotations", unit="batch", disable=rank > 0):
        media, prompts = {}, {}
        for item in mine[start:start + batch]:
            for side in (item.a, item.b):
                sample = side.sample(item.where, generator.shape.frames or 1)
                generator.check_media([sample.media], item.where)
                speeds.append((generator.speed_of(sample.media), item.where))
                media[cache.media_key(sample.media)] = sample.media
                prompts[cache.prompt_key(sample.prompt)] = sample.prompt
        cache.add_media(media)
        cache.add_prompts(prompts)
    say_speeds(speeds, generator.shape)


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
