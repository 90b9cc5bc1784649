"""From rewards to advantages: how much better a sample is than its prompt's usual reward.

    A_i = (r_i - baseline of the group) / (scale + eps), clipped to +-clip

Baselines: the group's mean (GRPO), the mean of the others (`leave_one_out`, RLOO), the median (MC-GRPO, arXiv
2601.22582), or none. Scales: std of the group or of the whole epoch (ddof 0), the median absolute deviation, or none
(Dr. GRPO, arXiv 2503.20783). Rewards are shaped before, in this order: win rates within the group (SPO, Swamy et al.
2024, arXiv 2401.04056), G-RA's gate, the unlikeliness penalty. Then the bonus of rare kinds is added (DiverseGRPO, Liu
et al. 2025, arXiv 2512.21514):

    R_i = r_i + rarity sqrt(G / samples of i's kind)

Differs from the papers in: MC-GRPO falls back to the group's std where more than half of the rewards tie, since its MAD
is then 0 and advantages would be a thousand times too large; unlikeliness ranks a sample by how near it is to its
group's centre, since the log-probability of a diffusion sample measures only the noise that was drawn; of kinds, see
rarity.py.
Recipes: configs/online/mc_grpo.yaml, configs/online/dance_grpo.yaml, configs/online/diverse.yaml.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from visalign.objectives.branches import edge_advantages
from visalign.objectives.group_figures import (
    alike,
    counts,
    first_of_group,
    group_mean,
    group_median,
    rank_in_group,
    weighted,
    win_rates_in_group,
    without_partly_scored,
)
from visalign.objectives.levels import LevelSchedule
from visalign.objectives.mixing import MixingSettings
from visalign.objectives.process_rewards import process_advantages, process_rewards
from visalign.validation.ranges import FewOrNone, Portion, Positive, RewardValue, Weight


class Advantages(NamedTuple):
    """advantages: float64 [n], NaN where a sample has no reward. trained: bool [n], which samples the update may use.
    clipped: bool [n]. zero_std: share of the groups in which all rewards are equal. by_term: float64 [n, T] where a
    rule tells a sample's terms apart, column k for the view's k-th term; samples are still selected by `advantages`.
    process: float64 [n, T], of the terms by themselves, which an objective learns from beside the sample's own,
    weighed. kinds: how many kinds of samples a group has in the mean, where rarity tells them apart. by_reward: float64
    [n, K], NaN where a reward is missing, where updates tell rewards apart."""

    advantages: Tensor
    trained: Tensor
    clipped: Tensor
    zero_std: float
    by_term: Tensor | None = None
    process: Tensor | None = None
    kinds: float | None = None
    by_reward: Tensor | None = None

    def of_terms(self) -> Tensor:
        """The advantages of the samples' terms: [n], equal for every term, or [n, T]."""
        return self.advantages if self.by_term is None else self.by_term


@dataclass(frozen=True)
class AdvantageRule(MixingSettings):
    """Settings.

    shape: `win_rate` puts in place of each reward the share of its group that it beats, ties a half, which no rescaling
    of the reward changes.
    gate, gate_threshold: G-RA, the other rewards count only where reward `gate` reaches the threshold; with
    gate_share > 0 only in groups of which at least that share reaches it.
    unlikeliness: r (1 - unlikeliness k / G), k = 0 for the least likely of the group; rewards must be at least 0.
    rarity: DiverseGRPO's bonus for samples of rare kinds, in units of the reward; 0: none. kinds: how many a group is
    divided into by the features of `reward.features`; 0: as many as their distances show, which may be one.
    history: take mean and std from this many last rewards of the prompt, as DDPO does (0: from the group).
    schedule: {layout, texture, split}, which rewards count at which noise levels (levels.py); samples are still chosen
    by all.
    drop_zero: leave samples with advantage 0 out of the update.
    process_weight, process: how much a step counts by what rollout.guide says of it, beside the outcome, and what of
    it: the guide's reward `before` the step (Euphonium's code), `after` it, its `gain`, or that of the clean samples
    that are predicted (`dense`); see process_rewards.py.
    """

    baseline: Literal["mean", "leave_one_out", "median", "none"] = "mean"
    scale: Literal["group_std", "global_std", "mad", "none"] = "group_std"
    clip: Positive = 5.0
    eps: Positive = 1e-4
    shape: Literal["none", "win_rate"] = "none"
    gate: str | None = None
    gate_threshold: RewardValue = 0.0
    gate_share: Portion = 0.0
    unlikeliness: Portion = 0.0
    rarity: Weight = 0.0
    kinds: FewOrNone = 0
    history: FewOrNone = 0
    schedule: LevelSchedule | None = None
    drop_zero: bool = True
    process_weight: Weight = 0.0
    process: Literal["before", "after", "gain", "dense"] = "gain"

    def __post_init__(self):
        super().__post_init__()
        if self.history and (self.baseline, self.scale, self.combine) != ("mean", "group_std", "rewards"):
            raise ValueError("history goes with baseline mean, scale group_std and combine rewards only")
        if self.schedule is not None and (self.history or self.probes):
            raise ValueError("schedule goes with neither history nor combine marble, which know a sample's whole "
                             "advantage")
        if self.finds_weights and self.gate is not None:
            raise ValueError(f"combine {self.combine} weighs the rewards itself, and gate counts some of them at "
                             "times: use one of them")
        if self.baseline == "median" and self.combine != "rewards":
            raise ValueError(f"baseline median goes with combine rewards only, got {self.combine}")
        if self.shape != "none" and (self.gate is not None or self.history):
            raise ValueError("shape win_rate goes with neither gate nor history, which see the rewards as they are")
        if self.scale == "mad" and self.baseline != "median":
            raise ValueError(f"scale mad goes with baseline median, got {self.baseline}")
        if self.rarity and (self.combine != "rewards" or self.history):
            raise ValueError("rarity adds to a sample's whole reward within its group: it goes with combine rewards "
                             "and without history")
        if self.kinds == 1 or self.kinds and not self.rarity:
            raise ValueError(f"kinds {self.kinds}: how many kinds rarity divides a group into, at least 2, or 0 to "
                             "find their number; it goes with rarity only")

    def rewards_named(self) -> list[tuple[str, str]]:
        """(setting, reward) of each name of a reward in the settings."""
        gates = [self.gate] if self.gate is not None else []
        levels = self.schedule
        named = {"gate": gates, "thresholds": self.thresholds or (), "schedule.layout": levels.layout if levels else (),
                 "schedule.texture": levels.texture if levels else ()}
        return [(setting, name) for setting, names in named.items() for name in names]

    def __call__(self, rewards: Tensor, weights: Tensor, groups: Tensor, names: tuple[str, ...] = (),
                 likelihood: Tensor | None = None, history: "History | None" = None,
                 kind_sizes: Tensor | None = None, process: Tensor | None = None,
                 levels: Tensor | None = None) -> Advantages:
        """rewards [n, K] (NaN: does not apply or could not be scored), weights [K], groups int64 [n].

        A reward that is NaN for a whole group drops out of it; a sample that lacks one which others of its group have
        is left out. likelihood [n]: larger is more likely. kind_sizes [n]: how many of its group are of a sample's
        kind. process: advantages of terms by themselves, [n, T]. levels [n, T]: the noise fractions of each sample's
        terms, 1 for pure noise.
        Raises ValueError when a penalty would reward: unlikeliness with a negative reward; and for rarity without
        kind_sizes, a schedule without levels.
        """
        def found_with(chosen: Tensor) -> Advantages:
            return self._weighed(rewards, chosen, groups, names, likelihood, history, kind_sizes, process)

        found = found_with(weights)
        if self.schedule is None:
            return found
        if levels is None:
            raise ValueError("schedule needs the noise levels of what is learnt from, which answers have none of")
        return found._replace(by_term=self.schedule.by_term(lambda chosen: found_with(chosen).advantages, names,
                                                            weights.double(), levels))

    def _weighed(self, rewards: Tensor, weights: Tensor, groups: Tensor, names: tuple[str, ...],
                 likelihood: Tensor | None, history: "History | None", kind_sizes: Tensor | None,
                 process: Tensor | None) -> Advantages:
        index = torch.unique(groups, return_inverse=True)[1]
        rewards = without_partly_scored(rewards.double(), index)
        if self.shape == "win_rate":
            rewards = torch.stack([win_rates_in_group(column, index) for column in rewards.unbind(1)], 1)
        weights = weights.double()
        if self.gate is not None:
            gated = self._gated(rewards, weights, index, names)
            return self._finish(self._one(self._rare(gated, index, kind_sizes), index), index, process)
        if self.combine == "rewards":
            total = self._unlikely(weighted(rewards, weights), index, likelihood)
            return self._finish(self._one(self._rare(total, index, kind_sizes), index, history), index, process)
        return self._added(rewards, weights, index, likelihood, process)

    def of_steps(self, values: Tensor, steps: Tensor, groups: Tensor) -> Tensor:
        """Advantages of steps by what a guide said before and after each, [n, K, 2], before they are weighed, [n, K].
        """
        return process_advantages(process_rewards(values, self.process), steps, groups, self.eps, self.clip)

    def by_edge(self, found: Advantages, rewards: Tensor, weights: Tensor, groups: Tensor, splits: int,
                depths: Tensor) -> Advantages:
        """`found` with an advantage for each term: of the edge of the samples' tree that lies after depths [T] of its
        splits. Groups are of one size, and the leaves of a node stand next to each other."""
        index = torch.unique(groups, return_inverse=True)[1]
        total = weighted(without_partly_scored(rewards.double(), index), weights.double())
        edges = edge_advantages(total, len(groups) // (int(index.max()) + 1), splits, self.eps, self.clip)[:, depths]
        trained = ~edges.isnan().any(1)
        return found._replace(by_term=edges, trained=trained & (edges != 0).any(1) if self.drop_zero else trained)

    def _added(self, rewards: Tensor, weights: Tensor, index: Tensor, likelihood: Tensor | None,
               process: Tensor | None) -> Advantages:
        """Each reward's advantages by itself, added."""
        columns = [self._one(self._unlikely(column, index, likelihood), index)[0] for column in rewards.unbind(1)]
        by_reward = torch.stack(columns, 1)
        same = torch.stack([alike(column, index) for column in rewards.unbind(1)]).all(0)
        if self.probes:  # bounded before they are mixed, so that a mixture is bounded without another clip
            bounded = by_reward.clamp(-self.clip, self.clip)
            parts = weighted(bounded, weights), torch.ones_like(index, dtype=torch.bool), same
            return self._finish(parts, index, process)._replace(by_reward=bounded,
                                                                clipped=(by_reward.abs() > self.clip).any(1))
        advantages = weighted(by_reward, weights)
        if self.combine == "gdpo":
            known = advantages[~advantages.isnan()]
            advantages = (advantages - known.mean()) / known.std(correction=0).clamp(min=1e-6)
        return self._finish((advantages, torch.ones_like(index, dtype=torch.bool), same), index, process)

    def _gated(self, rewards: Tensor, weights: Tensor, index: Tensor, names: tuple[str, ...]) -> Tensor:
        if self.gate not in names:
            raise ValueError(f"gate names no reward; the rewards are {', '.join(names)}")
        k = names.index(self.gate)
        passed = (rewards[:, k] >= self.gate_threshold).double()
        if self.gate_share:
            passed = (group_mean(passed, index) >= self.gate_share).double()
        others = weights.clone()
        others[k] = 0
        return weights[k] * rewards[:, k] + passed * weighted(rewards, others).nan_to_num(0.0)

    def _unlikely(self, rewards: Tensor, index: Tensor, likelihood: Tensor | None) -> Tensor:
        if not self.unlikeliness:
            return rewards
        if (rewards < 0).any():
            raise ValueError("unlikeliness needs rewards of at least 0, since it scales them down; shift or gate them")
        ranks = rank_in_group(likelihood, index)
        return rewards * (1 - self.unlikeliness * ranks / counts(index))

    def _rare(self, rewards: Tensor, index: Tensor, kind_sizes: Tensor | None) -> Tensor:
        if not self.rarity:
            return rewards
        if kind_sizes is None:
            raise ValueError("rarity needs the features of the samples: set reward.features")
        return rewards + self.rarity * (counts(index) / kind_sizes).sqrt()

    def _one(self, rewards: Tensor, index: Tensor, history: "History | None" = None) -> tuple[Tensor, Tensor, Tensor]:
        """Advantages before clipping, which samples may be trained on, and where all rewards of a group are equal."""
        trained, same = torch.ones_like(index, dtype=torch.bool), alike(rewards, index)
        if history is not None:
            mean, std = history.statistics(rewards)
            return (rewards - mean) / (std + self.eps), trained, same
        size = counts(index, ~rewards.isnan())
        centre = group_mean(rewards, index)
        if self.baseline == "leave_one_out":
            centre = (centre * size - rewards) / (size - 1)
        elif self.baseline == "median":
            centre = group_median(rewards, index)
            trained = ~first_of_group(rewards == centre, index)
        elif self.baseline == "none":
            centre = torch.zeros_like(rewards)
        advantages = (rewards - centre) / (self._scale(rewards, centre, index) + self.eps)
        no_signal = same if self.baseline != "none" else torch.zeros_like(same)
        return torch.where(no_signal & ~rewards.isnan(), 0.0, advantages), trained, same

    def _scale(self, rewards: Tensor, centre: Tensor, index: Tensor) -> Tensor:
        if self.scale == "none":
            return torch.full_like(rewards, 1 - self.eps)
        if self.scale == "global_std":
            return rewards[~rewards.isnan()].std(correction=0).expand_as(rewards)
        std = (group_mean((rewards - group_mean(rewards, index)).square(), index)).sqrt()
        if self.scale == "mad":
            mad = group_median((rewards - centre).abs(), index)
            return torch.where(mad > 0, mad, std)
        return std

    def _finish(self, parts: tuple[Tensor, Tensor, Tensor], index: Tensor, process: Tensor | None) -> Advantages:
        advantages, trained, same = parts
        bounded = advantages.clamp(-self.clip, self.clip)
        trained = trained & ~advantages.isnan()
        if self.drop_zero:
            nothing = advantages == 0 if process is None else (advantages == 0) & (process == 0).all(1)
            trained = trained & ~nothing
        weighed = None if process is None else self.process_weight * process
        groups = first_of_group(torch.ones_like(same), index)
        return Advantages(bounded, trained, advantages.abs() > self.clip, same[groups].double().mean().item(),
                          process=weighed)


class History:
    """The last `length` rewards of every prompt (DDPO): statistics come from them once there are `least`."""

    def __init__(self, length: int):
        self.length, self.least = length, max(2, length // 2)
        self.rewards: dict[str, list[float]] = {}
        self._prompts: list[str] = []

    def add(self, prompts: list[str], rewards: list[float]) -> None:
        """Store this epoch's rewards, and whose statistics come next."""
        self._prompts = prompts
        for prompt, reward in zip(prompts, rewards, strict=True):
            if reward == reward:
                self.rewards[prompt] = [*self.rewards.get(prompt, []), reward][-self.length:]

    def statistics(self, rewards: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std [n] for the prompts last added; the whole epoch's where a prompt has too few."""
        known = rewards[~rewards.isnan()]
        rows = []
        for prompt in self._prompts:
            seen = self.rewards.get(prompt, [])
            values = torch.tensor(seen, dtype=torch.float64) if len(seen) >= self.least else known
            rows.append((values.mean().item(), values.std(correction=0).item()))
        mean, std = torch.tensor(rows, dtype=torch.float64).unbind(1)
        return mean, std

    def state_dict(self) -> dict:
        return {"rewards": self.rewards}

    def load_state_dict(self, state: dict) -> None:
        self.rewards = state["rewards"]
