"""`visalign evaluate RUN RUN ...`: runs of one recipe that differ in their training seed, as one answer.

Each is compared with their untrained model on the same prompts and seeds; changes over all of them have intervals that
hold for another run as well (evaluators/training_seeds.py), which those over prompts do not.
"""

from pathlib import Path
from typing import Any

import numpy as np

from visalign.config import LanguageSettings, OfflineConfig, OnlineConfig
from visalign.errors import UserError
from visalign.evaluation.compare import Results
from visalign.evaluation.sources import SampleSource, base_source, run_config, run_source
from visalign.evaluators.statistics import TooFew
from visalign.evaluators.training_seeds import SeedsChange, over_training_seeds
from visalign.evaluators.verdict import DIVERSITY

_OWN = {"output": ("folder",), "train": ("seed",)}
"""What may differ between the runs of one recipe."""


def runs_of_one_recipe(folders: list[Path]) -> OfflineConfig | OnlineConfig:
    """The settings of the first of several finished runs. Raises UserError where they are not one recipe's, or share
    a training seed."""
    configs = [_config(folder) for folder in folders]
    first = _flat(configs[0])
    seeds: dict[int, Path] = {}
    for folder, config in zip(folders, configs, strict=True):
        other = _flat(config)
        differs = next((key for key in [*first, *other] if first.get(key) != other.get(key)), None)
        if differs:
            raise UserError(f"evaluate: {folders[0]} and {folder} differ in {differs} ({first.get(differs)} and "
                            f"{other.get(differs)}), and several runs are taken as training seeds of one recipe; "
                            "compare others with `visalign compare`")
        if config.train.seed in seeds:
            raise UserError(f"evaluate: {seeds[config.train.seed]} and {folder} have the same train.seed "
                            f"{config.train.seed}, so they say nothing of the spread between seeds")
        seeds[config.train.seed] = folder
    return configs[0]


def _config(folder: Path) -> OfflineConfig | OnlineConfig:
    if not (folder / "config.yaml").is_file():
        raise UserError(f"evaluate {folder}: is no run; several sources are finished runs of one recipe, with other "
                        "training seeds")
    config = run_config(folder)
    if isinstance(config, LanguageSettings):
        raise UserError(f"evaluate {folder}: is a language model's run; several runs at once are for image and video "
                        "models")
    return config


def _flat(config: OfflineConfig | OnlineConfig) -> dict[str, Any]:
    """Settings by their dotted keys, but for what each run has of its own."""
    found = {}
    for section, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            found |= {f"{section}.{key}": each for key, each in value.items() if key not in _OWN.get(section, ())}
        else:
            found[section] = value
    return found


def sources_of_runs(folders: list[Path]) -> list[SampleSource]:
    """Their untrained model, then each run under a name of its own."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names) or "base" in names:
        names = [f"run {number + 1}" for number in range(len(folders))]
    return [base_source("base", folders[0]), *map(run_source, names, folders)]


def changes_over_seeds(results: Results) -> tuple[dict[str, SeedsChange], list[str]]:
    """Of each reward, in standard deviations of the base, and of diversity, as a share of the base's mean, by the
    prompts that all runs know it for; and a sentence for each of which too few are."""
    before, found, lacking = results.measured[results.base].measured, {}, []
    for metric in [*(f"reward/{name}" for name in before.names("reward")), DIVERSITY]:
        if metric not in before.values:
            continue
        base = np.array(before.values[metric], np.float64)
        runs = np.array([results.measured[model].measured.values[metric] for model in results.verdicts], np.float64)
        known = np.isfinite(base) & np.isfinite(runs).all(0)
        unit = base[known].mean() if metric == DIVERSITY and known.any() else before.spread.get(metric, 0.0)
        changes = runs[:, known] - base[known]
        try:
            found[metric] = over_training_seeds(changes / unit if unit > 0 else changes)
        except TooFew as error:
            lacking.append(f"{metric.partition('/')[2]} over training seeds: {error}")
    return found, lacking


def seeds_in_words(changes: dict[str, SeedsChange]) -> list[str]:
    """A sentence for each."""
    lines = []
    for metric, found in changes.items():
        what, by, unit, digits = ("diversity", 100, " %", 0) if metric == DIVERSITY else (
            metric.partition("/")[2], 1, " standard deviations", 2)
        change = found.change.scaled(by)
        each = ", ".join(f"{value * by:+.{digits}f}" for value in found.each)
        lines.append(f"over {len(found.each)} training seeds {what} changed by {change.value:+.{digits}f}{unit} "
                     f"[{change.low:+.{digits}f}, {change.high:+.{digits}f}]; each run: {each}; deviation between "
                     f"runs: {found.between * by:.{digits}f}")
    return lines
