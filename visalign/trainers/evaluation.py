"""Held-out measurements during a run: pictures on fixed seeds, their reward and variety, implicit accuracy."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

from visalign.config import Evaluation
from visalign.data.prompts import read_prompts
from visalign.evaluators.variety import variety_per_prompt
from visalign.generators.base import Generator
from visalign.media import Sample, grid
from visalign.rewards import ClipScore, Reward, finite_scores
from visalign.trainers.feedback import make_samples


@dataclass(frozen=True)
class HeldOut:
    """Per-prompt means at one step, in the order of `prompts`; rewards and variety are empty when not measured.

    others: further rewards by name.
    """

    step: int
    prompts: list[str]
    reward: list[float]
    variety: list[float]
    others: dict[str, list[float]]

    def row(self) -> dict:
        return {"kind": "held_out", **asdict(self)}


def measure(generator: Generator, settings: Evaluation, step: int, folder: Path, reward: Reward | None,
            features: ClipScore | None, others: Sequence[Reward] = ()) -> HeldOut:
    """Sample the held-out prompts, save the pictures under `folder`, and judge them."""
    prompts = read_prompts(settings.prompts, settings.max_prompts)
    samples = make_samples(generator, prompts, settings.samples_per_prompt, steps=settings.steps,
                           guidance_scale=settings.guidance_scale, seed=settings.seed, label=f"samples, step {step}")
    save_samples(samples, folder)

    def means(judge: Reward) -> list[float]:
        return finite_scores(judge, samples).view(len(prompts), -1).mean(1).tolist()

    variety: dict[str, float] = {}
    if features and settings.samples_per_prompt > 1:
        variety = variety_per_prompt(features.features([s.image for s in samples]), [s.prompt for s in samples])
    return HeldOut(step, prompts, means(reward) if reward else [], [variety[p] for p in prompts if p in variety],
                   {judge.name: means(judge) for judge in others})


def save_samples(samples: list[Sample], folder: Path) -> None:
    """One PNG a sample, named by prompt number and picture number, and a labelled grid."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[Image.Image]] = {}
    for sample in samples:
        rows.setdefault(sample.prompt, []).append(sample.image)
    for i, images in enumerate(rows.values()):
        for j, image in enumerate(images):
            image.save(folder / f"{i:03d}-{j}.png")
    grid(list(rows.items())).save(folder / "grid.png")


FIXED_FRACTIONS = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
"""Noise levels at which held-out pairs are compared."""
