"""Measurements during a run: the same held-out prompts and seeds each time, judged, and reduced to numbers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from visalign.config import EvaluationSettings
from visalign.data.prompts import read_prompts
from visalign.errors import UserError
from visalign.evaluators.motion import motion_diversity
from visalign.evaluators.prompt_metrics import PromptMetrics, reduce
from visalign.evaluators.style import style_of
from visalign.generators.base import Generator
from visalign.media.samples import Media, Sample
from visalign.media.video_files import media_file, save_sheet
from visalign.rewards import ClipScore, Reward, finite_scores, for_modality, load_reward
from visalign.sampling.feedback import make_samples
from visalign.storage.files import write_atomically


@dataclass(frozen=True)
class HeldOutRewards:
    """What looks at held-out samples: the optimised reward (None: unknown), others, and the features of diversity."""

    proxy: Reward | None
    others: tuple[Reward, ...]
    features: ClipScore | None

    @property
    def rewards(self) -> list[Reward]:
        return [judge for judge in (self.proxy, *self.others) if judge]

    @property
    def proxy_name(self) -> str | None:
        return self.proxy.name if self.proxy else None


def load_held_out_rewards(settings: EvaluationSettings, device: str, modality: str) -> HeldOutRewards:
    """Raises UserError when two rewards have one name, judge another modality, or `features` is no open_clip model."""
    def load(spec) -> Reward:
        return for_modality(load_reward(spec, device), modality)

    judges = HeldOutRewards(load(settings.reward) if settings.reward else None, tuple(map(load, settings.also)),
                    load_features(settings.features, device) if settings.features else None)
    names = [judge.name for judge in judges.rewards]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"eval.reward and eval.also: two rewards are named {twice}; leave one out or give it a name "
                        "with {kind: ..., name: ...}")
    return judges


def load_features(source: str, device: str = "cpu", setting: str = "eval.features") -> ClipScore:
    """What measures diversity. Raises UserError when `source` is no open_clip model."""
    features = load_reward(source, device)
    if not isinstance(features, ClipScore):
        raise UserError(f"{setting} {source}: is no open_clip model; use tiny-clip, an open_clip folder, or "
                        "clip:ARCHITECTURE/TAG")
    return features


def measure(generator: Generator, settings: EvaluationSettings, judges: HeldOutRewards,
            label: str) -> tuple[PromptMetrics, list[Sample]]:
    """Sample the prompts of `settings` on its seeds, and judge the samples."""
    prompts = read_prompts(settings.prompts, settings.max_prompts)
    samples = make_samples(generator, prompts, settings.samples_per_prompt, steps=settings.steps,
                           guidance_scale=settings.guidance_scale, seed=settings.seed, label=label)
    shape = (len(prompts), settings.samples_per_prompt)
    rewards = {judge.name: finite_scores(judge, samples).view(shape) for judge in judges.rewards}
    features = None
    if judges.features and settings.samples_per_prompt > 1:
        features = judges.features.sample_features(samples).view(*shape, -1)
    style = np.stack([style_of(sample) for sample in samples]).reshape(*shape, -1)
    motion = [motion_diversity(samples[i:i + shape[1]]) for i in range(0, len(samples), shape[1])]
    try:
        return reduce(prompts, rewards, features, style, {"motion": np.array(motion)}), samples
    except ValueError as error:
        raise UserError(f"eval.features {settings.features}: {error}") from None


def prompt_metrics_of(row: dict) -> PromptMetrics:
    """What was measured, from a row of metrics.jsonl."""
    return PromptMetrics(**{name: row[name] for name in ("prompts", "seeds", "values", "spread")})


def check_same(first: PromptMetrics, now: PromptMetrics, setting: str) -> None:
    """Raise UserError when a resumed run measures something else than it did at its start."""
    if first.prompts != now.prompts or first.seeds != now.seeds or first.values.keys() != now.values.keys():
        raise UserError(f"{setting}: the prompts, the number of samples or the judges are not those of the run's "
                        "start, so nothing can be compared; resume with the settings it was started with")


def save_samples(samples: list[Sample], folder: Path) -> None:
    """One file a sample, named by prompt number and sample number, and a labelled grid."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = samples_by_prompt(samples)
    for i, (_, media) in enumerate(rows):
        for j, each in enumerate(media):
            suffix, content = media_file(each)
            write_atomically(folder / f"{i:03d}-{j}{suffix}", content)
    save_sheet(rows, folder / "grid.png")


def samples_by_prompt(samples: list[Sample]) -> list[tuple[str, list[Media]]]:
    rows: dict[str, list[Media]] = {}
    for sample in samples:
        rows.setdefault(sample.source_prompt, []).append(sample.media)
    return list(rows.items())


FIXED_FRACTIONS = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
"""Noise levels at which held-out pairs are compared."""
