"""The log of an online run: rewards of an epoch, tables by sampling step, memory, and a grid of samples."""

import resource

import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.media.samples import Media
from visalign.media.source_images import sheet_row
from visalign.objectives import Outcome
from visalign.objectives.advantages import Advantages
from visalign.trainers.online.collect import RolloutBatch
from visalign.trainers.online.epochs import SHOWN_GROUPS
from visalign.trainers.online.scoring import RewardSet

TOP_SHARES = (100, 50, 25, 10)
SPREAD = ("ratio", "log_prob")
"""Metrics whose table also holds the spread, minimum and maximum."""


def epoch_metrics(collected: RolloutBatch, advantages: Advantages, reward_set: RewardSet | None,
                  accelerator: Accelerator) -> dict[str, float]:
    """Rewards and advantages of one epoch over all processes."""
    row: dict[str, float] = {}
    for name, column in zip(reward_set.names if reward_set else (), collected.rewards.unbind(1), strict=False):
        known = column[~column.isnan()]
        if not len(known):
            continue
        for label, value in (("mean", known.mean()), ("std", known.std(correction=0)), ("min", known.min()),
                             ("max", known.max())):
            row[f"reward/{name}/{label}"] = value.item()
    if reward_set:
        scored = ~collected.rewards.isnan().all(1)
        total = (collected.rewards.nan_to_num(0.0).double() * reward_set.weights).sum(1)[scored]
        groups = collected.groups[scored]
        row["reward"] = total.mean().item()
        row |= {f"reward_top_{share}": top_mean(total, groups, share) for share in TOP_SHARES}
        stds = torch.stack([total[groups == g].std(correction=0) for g in groups.unique()])
        row["group_std"] = stds.mean().item()
    known = advantages.advantages[~advantages.advantages.isnan()]
    row |= {"zero_std_ratio": advantages.zero_std, "unscored": int(collected.rewards.isnan().all(1).sum()),
            "unique_prompts": len(set(collected.prompts)), "advantage_abs": known.abs().mean().item(),
            "advantage_clipped": advantages.clipped.double().mean().item()}
    row["latent_rms"] = torch.stack([s.latents for s in collected.samples.values()]).square().mean().sqrt().item()
    sampling = collected.seconds["sampling"] + collected.seconds["decoding"]
    row["samples_a_second"] = len(collected.samples) * accelerator.num_processes / max(sampling, 1e-9)
    return row


def top_mean(values: Tensor, groups: Tensor, share: int) -> float:
    """Mean reward of the best `share` per cent of each group."""
    means = []
    for g in groups.unique():
        ordered = values[groups == g].sort(descending=True).values
        means.append(ordered[:max(1, round(len(ordered) * share / 100))].mean())
    return torch.stack(means).mean().item()


class StepTable:
    """Metrics of an update's terms by sampling step (by tenth of the noise range for forward-process methods)."""

    def __init__(self, rows: list[tuple[int, dict[str, float]]] | None = None):
        self.rows = rows if rows is not None else []

    def add(self, steps: Tensor, outcome: Outcome) -> None:
        """Add one term of a micro-batch."""
        names = list(outcome.metrics)
        values = torch.stack([outcome.metrics[name].float() for name in names], 1).cpu().tolist()
        loss = outcome.loss.item()
        self.rows += [(step, {"loss": loss} | dict(zip(names, row, strict=True)))
                      for step, row in zip(steps.tolist(), values, strict=True)]

    def summary(self) -> dict:
        """Means over everything, and `by_step`: {metric: {step: value}}."""
        if not self.rows:
            return {}
        names = list(self.rows[0][1])
        columns = {name: torch.tensor([row[1][name] for row in self.rows], dtype=torch.float64) for name in names}
        steps = torch.tensor([row[0] for row in self.rows])
        found = {name: column.mean().item() for name, column in columns.items()}
        table: dict[str, dict[str, float]] = {}
        for name, column in columns.items():
            for step in steps.unique().tolist():
                part = column[steps == step]
                table.setdefault(name, {})[str(step)] = part.mean().item()
                if name in SPREAD:
                    for label, value in (("std", part.std(correction=0)), ("min", part.min()), ("max", part.max())):
                        table.setdefault(f"{name}_{label}", {})[str(step)] = value.item()
        if "ratio" in columns:
            found |= {"ratio_min": columns["ratio"].min().item(), "ratio_max": columns["ratio"].max().item(),
                      "ratio_std": columns["ratio"].std(correction=0).item()}
        return found | {"by_step": table}


def peak_memory() -> float:
    """GiB: of the accelerator where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rollout_rows(collected: RolloutBatch, group_size: int, groups: int = SHOWN_GROUPS,
                 across: int = 8) -> list[tuple[str, list[Media]]]:
    """Samples of the first groups, highest reward first."""
    total = collected.rewards.nan_to_num(0.0).sum(1)
    rows: dict[int, list] = {}
    for place, sample in collected.images:
        rows.setdefault(place // group_size, []).append((total[place].item(), sample))
    lines = []
    for members in list(rows.values())[:groups]:
        members.sort(key=lambda entry: -entry[0])
        lines.append(sheet_row([sample for _, sample in members[:across]]))
    return lines
