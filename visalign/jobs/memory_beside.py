"""What lies in memory beside the model: rewards, and an epoch's samples with the steps in which they were drawn."""

import json
from dataclasses import dataclass
from functools import lru_cache

from visalign.config import OfflineConfig, OnlineConfig
from visalign.rewards import build_reward
from visalign.trainers.cost import kept_steps


@dataclass(frozen=True)
class RewardSizes:
    """Bytes of rewards' weights: of those that score what is learnt from, and of those that measure held-out samples.

    unknown: names of rewards of which it is not known.
    """

    scoring: int
    measuring: int
    unknown: tuple[str, ...]


def reward_sizes(config: OfflineConfig | OnlineConfig) -> RewardSizes:
    """Of the rewards of a recipe. One that scores in several dimensions is held once, one that also measures twice."""
    scoring = [*(term.reward for term in config.reward.models), *filter(None, [config.embedded_by])] \
        if config.loop == "online" else []
    measuring = [each for each in (config.eval.reward, *config.eval.also, config.eval.features) if each]
    sizes, unknown = [], []
    for specs in (scoring, measuring):
        known = [_named_size(text) for text in dict.fromkeys(json.dumps(spec, sort_keys=True) for spec in specs)]
        sizes.append(sum(size or 0 for _, size in known))
        unknown += [name for name, size in known if size is None]
    return RewardSizes(*sizes, tuple(dict.fromkeys(unknown)))


@lru_cache
def _named_size(spec: str) -> tuple[str, int | None]:
    """A reward's name and the bytes of its weights; spec: as JSON, since plans are made by the thousand."""
    reward = build_reward(json.loads(spec))
    return reward.name, reward.held_bytes()


@dataclass(frozen=True)
class SampleSizes:
    """Bytes of one sample's latents and of one prompt's embeddings, both in single precision."""

    latents: int
    embeddings: int

    def trajectory(self, config: OnlineConfig, objective) -> int:
        """Of one sample: its latents and, of each step that is kept, those before and after, its number and
        log-probability, and the mean, what a guide moved, and another sibling where the objective
        needs them."""
        tensors = 2 + len({"old_mean", "moves", "siblings"} & objective.needs)
        return self.latents + kept_steps(config, objective) * (tensors * self.latents + 8 + 4)

    def epoch(self, config: OnlineConfig, objective, processes: int) -> dict[str, int]:
        """What one process keeps of an epoch until it has learnt from it, with the embedding of no words."""
        rollout = config.rollout
        samples = rollout.prompts_per_epoch * rollout.group_size // processes
        return {"trajectories": samples * self.trajectory(config, objective),
                "embeddings": (rollout.prompts_per_epoch + 1) * self.embeddings}

    def batch(self, config: OnlineConfig, objective) -> dict[str, int]:
        """What lies on the device while a batch is drawn, each prompt with what guidance leads it away from."""
        rows = config.rollout.batch_size
        return {"trajectories": rows * self.trajectory(config, objective), "embeddings": 2 * rows * self.embeddings}
