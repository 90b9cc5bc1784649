"""`visalign reward direct`: learn the direction that frees a CLIP reward of its own taste, on the base model's samples.

Features are computed once. A quarter of the prompts is held out, and what is told was measured on it: how much the
reward gives the samples, and how much less with another prompt, before and after. Where the second is gone, texts no
longer count: fewer steps, or a shorter direction, leave more of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from visalign.data.generations import find_generations
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.directional import LEARNT, MEAN, guided_texts, learn_direction
from visalign.rewards.on_clip import ClipFeatures, has_features
from visalign.sampling.seeds import rng_for
from visalign.storage.weights import write_tensors

LEAST_PROMPTS, READ_TOGETHER, HELD_OUT = 8, 64, 0.25


@dataclass(frozen=True)
class DirectionFound:
    """What was written. before, after: (mean reward, how much less with another prompt) on held-out prompts. towards:
    the cosine of the direction with the mean feature of the samples."""

    reward: str
    samples: int
    left_out: int
    length: float
    towards: float
    before: tuple[float, float]
    after: tuple[float, float]


def direct_reward(spec, source: str, out: Path, *, mean: float | None = None, omega: float = 1.5, steps: int = 2000,
                  rate: float = 0.01, longest: float | None = None, seed: int = 0,
                  device: str = "cpu") -> DirectionFound:
    """Write the correction of a CLIP reward for the samples at `source` to the .safetensors file `out`.

    mean: instead of learning, this many times the mean feature. longest: the length within which what is learnt is
    held. Raises UserError for a reward without features, and for too few samples.
    """
    reward = with_features(spec, out, device)
    images, prompts, left_out = embed_samples(reward, source, image_features)
    names = list(dict.fromkeys(prompts))
    if len(names) < LEAST_PROMPTS:
        raise UserError(f"input {source}: has samples of {len(names)} prompts; at least {LEAST_PROMPTS} are needed, "
                        "since a quarter of them is held out")
    texts = reward.prompt_features(names)[0]
    order = torch.randperm(len(names), generator=rng_for(seed, "held out")).tolist()
    held = set(order[:max(2, round(HELD_OUT * len(names)))])
    place_of = {prompt: i for i, prompt in enumerate(names)}
    place = torch.tensor([place_of[prompt] for prompt in prompts])
    shown = torch.tensor([i not in held for i in place.tolist()])
    centre = images[shown].mean(0)
    if mean is None:
        vector = learn_direction(images[shown], texts[place[shown]], omega, steps, rate, rng_for(seed, "batches"),
                                 longest)
        moved = guided_texts(texts, vector, omega)
    else:
        vector = mean * centre
        moved = F.normalize(texts + vector, dim=-1)
    kept = ~shown
    found = DirectionFound(
        reward.name, len(images), left_out, vector.norm().item(), F.cosine_similarity(vector, centre, dim=0).item(),
        own_and_others(images[kept], texts, place[kept]), own_and_others(images[kept], moved, place[kept]))
    how = {"omega": omega, "steps": steps, "rate": rate, "longest": longest} if mean is None else {"weight": mean}
    write_tensors(out, {LEARNT if mean is None else MEAN: vector}, {
        name: str(value) for name, value in {"reward": spec, "samples": source, "seed": seed, **how}.items()})
    return found


def with_features(spec, out: Path, device: str) -> Any:
    """A CLIP reward, for what is learnt of its features and written to `out`. Raises UserError where either is not."""
    if out.suffix != ".safetensors":
        raise UserError(f"out {out}: what is written is a .safetensors file")
    reward = load_reward(spec, device)
    if not has_features(reward):
        raise UserError(f"reward {reward.name}: has no features of images and prompts to learn from; take a CLIP model "
                        "such as tiny-clip, clip:ARCHITECTURE/TAG or hpsv2")
    return reward


def image_features(clip: ClipFeatures, samples: list[Sample]) -> Tensor:
    return clip.features([sample.image for sample in samples])


def embed_samples(reward, source: str, features: Callable[[ClipFeatures, list[Sample]], Tensor],
             frames: int = 0) -> tuple[Tensor, list[str], int]:
    """Unit features [n, d] of the samples with a prompt, their prompts, and how many were left out.

    frames: of videos, which are left out at 0.
    """
    entries, parts, prompts = find_generations(source), [], []
    taken = {"image", "video"} if frames else {"image"}
    for start in tqdm(range(0, len(entries), READ_TOGETHER), desc="embedding", unit="batch"):
        readable = [entry for entry in entries[start:start + READ_TOGETHER] if entry.problem is None]
        samples = [sample for sample in (entry.sample(max(1, frames)) for entry in readable)
                   if sample.modality in taken and sample.prompt.strip()]
        if samples:
            parts.append(features(reward, samples))
            prompts += [sample.prompt for sample in samples]
    if not prompts:
        raise UserError(f"input {source}: none of its {len(entries)} samples is an image"
                        f"{' or a video' if frames else ''} with a prompt")
    return torch.cat(parts), prompts, len(entries) - len(prompts)


def own_and_others(images: Tensor, texts: Tensor, place: Tensor) -> tuple[float, float]:
    """The mean cosine of images with their own texts, and how much more it is than with other held-out prompts'."""
    every = images @ texts[place.unique()].T
    own = (images * texts[place]).sum(-1)
    count = every.shape[1]
    others = (every.sum(1) - own) / (count - 1)
    return own.mean().item(), (own - others).mean().item()
