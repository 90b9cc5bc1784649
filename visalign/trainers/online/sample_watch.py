"""What the guard's watch measures of the samples that are learnt from: of each group only the first few, and of few
groups what rewards that are held out say of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visalign.config import OnlineConfig
from visalign.evaluators.style import STYLE, style_of
from visalign.media.samples import Sample
from visalign.rewards import Reward, for_modality, load_reward


@dataclass(frozen=True)
class SampleWatch:
    """group_size: samples of a prompt, whose places follow each other. members: how many of them are measured.
    embeds_all: whether all samples have features, which something else needs. rewards: held-out ones, which score the
    measured samples of the first so many `scored_groups` of an epoch, whose prompts come in random order."""

    group_size: int
    members: int
    embeds_all: bool = False
    rewards: tuple[Reward, ...] = ()
    scored_groups: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        return (*(f"style/{name}" for name in STYLE), *(f"reward/{reward.name}" for reward in self.rewards))

    def chosen(self, samples: list[Sample]) -> list[int]:
        """Numbers of those that are measured, by their places."""
        return [i for i, sample in enumerate(samples) if (sample.seed or 0) % self.group_size < self.members]

    def measure(self, samples: list[Sample], score: Callable[[Reward, list[Sample]], Any]) -> Tensor:
        """float32 [n, len(names)], larger rewards are better, NaN where nothing was measured. score: how a reward is
        asked. Raises what that raises."""
        found, chosen = torch.full((len(samples), len(self.names)), torch.nan), self.chosen(samples)
        for i in chosen:
            found[i, :len(STYLE)] = torch.from_numpy(style_of(samples[i])).float()
        scored = [i for i in chosen if (samples[i].seed or 0) // self.group_size < self.scored_groups]
        for column, reward in enumerate(self.rewards if scored else (), start=len(STYLE)):
            values = score(reward, [samples[i] for i in scored]).values[:, 0].float().cpu()
            found[scored, column] = values if reward.higher_is_better else -values
        return found


def sample_watch(config: OnlineConfig, device: str, modality: str) -> SampleWatch | None:
    """None where the guard watches nothing. Raises UserError for a reward that cannot be loaded, or does not score the
    modality."""
    if not config.watched:
        return None
    rollout, guard = config.rollout, config.guard
    members = min(rollout.group_size, guard.watch_samples)
    rewards = tuple(for_modality(load_reward(spec, device), modality) for spec in config.watched_rewards)
    groups = max(1, round(guard.watch_rewards * rollout.prompts_per_epoch * rollout.group_size / members))
    return SampleWatch(rollout.group_size, members, bool(config.reward.features), rewards, groups if rewards else 0)
