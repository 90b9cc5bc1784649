"""One model's generations reduced to numbers: per prompt, and the spread of single generations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from visalign.evaluators import diversity
from visalign.evaluators.looks import ONE_LOOK, Intervals
from visalign.evaluators.statistics import Estimate


@dataclass(frozen=True)
class PromptMetrics:
    """Metrics of K generations for each of P prompts.

    values: {metric: [P]}; metrics are `reward/NAME` (means, larger is better), `diversity/NAME`, `style/NAME` (means)
    and, of texts, `answers/NAME` (shares of a prompt's answers). NaN where unknown. spread: standard deviation of
    single generations, for rewards and style. unscored: {reward: how many generations it could not score, and why the
    first}, where there are any.
    """

    prompts: list[str]
    seeds: int
    values: dict[str, list[float]]
    spread: dict[str, float]
    unscored: dict[str, tuple[int, str]] = field(default_factory=dict)

    def names(self, kind: str) -> list[str]:
        """Names of one kind: `reward`, `diversity`, `style` or `answers`."""
        return [name.partition("/")[2] for name in self.values if name.startswith(f"{kind}/")]

    def mean(self, metric: str, intervals: Intervals = ONE_LOOK) -> Estimate | None:
        """Mean over the prompts for which it is known."""
        known = [value for value in self.values[metric] if np.isfinite(value)]
        return intervals.mean(known) if known else None

    def first(self, count: int) -> "PromptMetrics":
        """Of the first so many prompts; the spread stays that of all."""
        return replace(self, prompts=self.prompts[:count],
                       values={name: values[:count] for name, values in self.values.items()})

    def notes(self) -> list[str]:
        """What is not known, one sentence a reward."""
        total = len(self.prompts) * self.seeds
        return [f"{name} could not score {count} of {total} generations ({reason})"
                for name, (count, reason) in self.unscored.items()]

    def as_dict(self) -> dict:
        """As logged; without `unscored` where every generation was scored."""
        return {name: value for name, value in asdict(self).items() if name != "unscored" or value}


def prompt_metrics_of(row: dict) -> PromptMetrics:
    """What was measured, from a row of metrics.jsonl."""
    return PromptMetrics(row["prompts"], row["seeds"], row["values"], row["spread"], row.get("unscored", {}))


def fewest_prompts(rows: Sequence[dict]) -> int:
    """The prompts that all measurements of a run have in common are the first so many."""
    return min(len(row["prompts"]) for row in rows)


def reduce(prompts: list[str], rewards: dict[str, Tensor], features: Tensor | None,
           style: dict[str, np.ndarray], together: dict[str, np.ndarray], reasons: dict[str, str]) -> PromptMetrics:
    """Per-prompt metrics from rewards {name: [P, K]}, features [P, K, D], style {name: [P, K]}, and metrics of a
    prompt's generations together {metric: [P]}, of which one that is NaN everywhere is left out. reasons: why the first
    generation that a reward could not score has no score; such generations are NaN, count in no mean, and are counted.

    Raises ValueError when features are not finite.
    """
    values: dict[str, list[float]] = {}
    spread: dict[str, float] = {}
    unscored: dict[str, tuple[int, str]] = {}
    for name, scores in rewards.items():
        values[f"reward/{name}"] = torch.nanmean(scores.double(), 1).tolist()
        known = scores[scores.isfinite()].double()
        spread[f"reward/{name}"] = known.std(correction=0).item() if len(known) else float("nan")
        if len(known) < scores.numel():
            unscored[name] = scores.numel() - len(known), reasons[name]
    if features is not None and features.shape[1] > 1:
        values |= {f"diversity/{name}": column.tolist() for name, column in diversity.per_prompt(features).items()}
    values |= {metric: column.tolist() for metric, column in together.items() if np.isfinite(column).any()}
    for name, column in style.items():
        values[f"style/{name}"] = column.mean(1).tolist()
        spread[f"style/{name}"] = float(column.std())
    return PromptMetrics(list(prompts), next(iter(style.values())).shape[1], values, spread, unscored)


def mean_over_seeds(measured: Sequence[PromptMetrics]) -> PromptMetrics:
    """Of one model on the same prompts and other seeds: means prompt by prompt, of what is known."""
    first = measured[0]

    def mean(rows: list) -> np.ndarray:
        """Over the first axis; NaN where nothing is known."""
        found = np.asarray(rows, np.float64)
        known = np.isfinite(found)
        return np.where(known, found, 0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)

    unscored = {name: found for each in measured for name, found in each.unscored.items()}
    values = {name: mean([each.values[name] for each in measured]).tolist() for name in first.values}
    spread = {name: float(mean([each.spread[name] for each in measured])) for name in first.spread}
    return PromptMetrics(first.prompts, first.seeds, values, spread, unscored)


def known_mean(values: Sequence[float]) -> float:
    """Mean of the values that are known, NaN when none is."""
    known = [value for value in values if np.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")


def paired(base: PromptMetrics, after: PromptMetrics, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A metric of both models on the prompts for which both know it."""
    a, b = np.array(base.values[metric], np.float64), np.array(after.values[metric], np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]
