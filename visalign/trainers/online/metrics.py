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
from visalign.trainers.online.reward_figures import advantage_figures, reward_figures
from visalign.trainers.online.scoring import RewardSet

SPREAD = ("ratio", "log_prob")
"""Metrics whose table also holds the spread, minimum and maximum."""


def epoch_metrics(collected: RolloutBatch, advantages: Advantages, reward_set: RewardSet | None,
                  accelerator: Accelerator) -> dict[str, float]:
    """Rewards and advantages of one epoch over all processes."""
    row = reward_figures(collected.rewards, collected.groups, reward_set) if reward_set else {}
    row |= advantage_figures(advantages, collected.rewards) | {"unique_prompts": len(set(collected.prompts))}
    row["latent_rms"] = torch.stack([s.latents for s in collected.samples.values()]).square().mean().sqrt().item()
    sampling = collected.seconds["sampling"] + collected.seconds["decoding"]
    row["samples_a_second"] = len(collected.samples) * accelerator.num_processes / max(sampling, 1e-9)
    return row


def guide_figures(values: Tensor) -> dict[str, float]:
    """Of a guide's rewards before and after steps, [n, K, 2]: their mean, and what a step and a sample's steps gained.
    """
    gains = values[..., 1] - values[..., 0]
    found = {"reward": values[..., 1].nanmean(), "gain": gains.nanmean(), "gain_of_sample": gains.nansum(1).mean()}
    return {f"guide/{name}": value.item() for name, value in found.items() if value.isfinite()}


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
