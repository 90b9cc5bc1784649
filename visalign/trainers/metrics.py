"""Metrics of a run: per pair, per quarter of the noise range, reduced over processes, written and smoothed."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.evaluators.likelihood import likelihoods
from visalign.objectives import Outcome, PairErrors
from visalign.storage.run_folder import RunFolder

SHOWN_METRICS = {"loss": "loss", "implicit_accuracy": "acc", "chosen_error": "error"}


def pair_metrics(outcome: Outcome, errors: PairErrors) -> dict[str, Tensor]:
    """The logged metrics of a batch, each [B]: the objective's, and how errors moved against the reference.

    `displaced` is 1 where the error on the chosen sample rose above the reference's (likelihood displacement).
    """
    metrics = {"noise_fraction": errors.noise_fraction, "loss": outcome.loss.detach().expand(len(errors.chosen)),
               "chosen_error": errors.chosen.detach(), **outcome.metrics}
    if errors.ref_chosen is not None and errors.desirable is None:  # of labelled samples, bad ones shall rise
        metrics["chosen_error_minus_ref"] = (errors.chosen - errors.ref_chosen).detach()
        metrics["displaced"] = (errors.chosen > errors.ref_chosen).float()
    if errors.ref_rejected is not None:
        metrics["rejected_error_minus_ref"] = (errors.rejected - errors.ref_rejected).detach()
    return metrics


def pair_likelihoods(seen: list[PairErrors], levels: int, prompts: list[str]) -> dict[str, Any]:
    """`likelihoods` of pairs whose errors [B] were taken at `levels` noise levels, one after the other for each batch,
    and the reference's own gap of each pair; {} for objectives that see no reference or no rejected sample."""
    if seen[0].rejected is None or seen[0].ref_rejected is None:
        return {}

    def of(name: str) -> np.ndarray:
        batches = [torch.stack([getattr(errors, name) for errors in seen[start:start + levels]]).mean(0)
                   for start in range(0, len(seen), levels)]
        return -torch.cat(batches).double().cpu().numpy()

    reference = of("ref_chosen"), of("ref_rejected")
    return {"likelihoods": asdict(likelihoods(of("chosen"), of("rejected"), *reference, prompts)),
            "held_out/reference_gap": (reference[0] - reference[1]).tolist()}


def by_quarter(values: Tensor, noise_fraction: Tensor) -> dict[str, float]:
    """Means in each non-empty quarter of the noise range."""
    quarter = (noise_fraction * 4).long().clamp(0, 3)
    return {f"q{q + 1}": values[quarter == q].mean().item() for q in range(4) if (quarter == q).any()}


class MetricLog:
    """Writes metrics.jsonl and the trackers; keeps moving averages of what the progress bar shows, {name: label}."""

    def __init__(self, run: RunFolder, accelerator: Accelerator, shown: dict[str, str] = SHOWN_METRICS):
        self.run, self.accelerator, self.shown = run, accelerator, shown
        self._average: dict[str, float] = {}

    def reduce(self, collected: list[dict[str, Tensor]]) -> dict[str, float]:
        """Means over micro-batches and processes; margin and accuracy also by quarter of the noise range."""
        names = list(collected[0])
        stacked = torch.stack([torch.cat([metrics[name].float() for metrics in collected]) for name in names], 1)
        columns = dict(zip(names, self.accelerator.gather(stacked).cpu().unbind(1), strict=True))
        noise_fraction = columns.pop("noise_fraction")
        row = {name: values.mean().item() for name, values in columns.items()}
        for name in ("implicit_accuracy", "margin", "chosen_error_minus_ref"):
            if name in columns:
                row |= {f"{name}/{k}": v for k, v in by_quarter(columns[name], noise_fraction).items()}
        return row

    def write(self, step: int, row: dict) -> None:
        for name in self.shown.keys() & row.keys():
            old = self._average.get(name, row[name])
            self._average[name] = old + 0.05 * (row[name] - old)
        self.run.log({"kind": "train", "step": step, **row})
        self.accelerator.log({name: value for name, value in row.items() if not isinstance(value, dict)}, step=step)

    def smoothed(self) -> str:
        known = {short: self._average[name] for name, short in self.shown.items() if name in self._average}
        return " ".join(f"{short} {value:.3f}" for short, value in known.items())
