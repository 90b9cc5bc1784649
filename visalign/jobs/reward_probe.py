"""`visalign reward probe`: which labels a reward's features hold, by linear probes, as a table and a page."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from visalign.data.ratings import RatedMedia, read_ratings, row_class
from visalign.errors import UserError
from visalign.evaluation.reward_eval import SCORED_FRAMES, SCORING_BATCH
from visalign.evaluators.calibration import folds_of_prompts
from visalign.evaluators.probing import PROBE_FOLDS, Probe, probe
from visalign.evaluators.statistics import TooFew
from visalign.media.samples import Sample
from visalign.reports.reward_probe import write_probes
from visalign.rewards import Reward, load_reward, scores_of
from visalign.rewards.familiar import fit_centres
from visalign.rewards.features import features_for
from visalign.rewards.registry import load_rewards
from visalign.storage.files import write_atomically
from visalign.storage.weights import write_tensors

MOST_CLASSES = 20
LOW, HIGH = "low", "high"


@dataclass(frozen=True)
class ProbesFound:
    """By label. refused {label: why it could not be probed}. features: how many numbers a sample has."""

    reward: str
    features: int
    probes: dict[str, Probe]
    refused: dict[str, str]


def probe_reward(spec: Any, source: str, dimensions: tuple[str, ...], out: Path, *, rules: tuple[str, ...] = (),
                 media_root: str | None = None, seed: int = 0, device: str = "cpu", centres: Path | None = None,
                 share: float = 0.95) -> ProbesFound:
    """Probe a reward's features of the samples in the table `source` and write probes.json and report.html into `out`.

    dimensions: columns of labels. rules: rewards whose scores, cut at their median, are labels as well. centres: where
    the centres of labels are kept, for the reward `familiar`; share: of samples that count as near them. Raises
    UserError for a reward without features, a table without labels, and where no label could be probed.
    """
    reward, named = load_reward(spec, device), load_rewards(list(rules), device)
    embed = features_for(reward)
    items = read_ratings(source, dimensions, media_root, row_class, unlabelled=bool(rules))
    labels = {name: [item.labels.get(name) for item in items] for name in dimensions
              if any(name in item.labels for item in items)}
    twice = next((rule.name for rule in named if rule.name in labels), None)
    if twice:
        raise UserError(f"reward probe: {twice} is a column of {source} and a rule; leave one of them out")
    features, scores = _measured(reward.name, items, embed, named)
    labels |= {name: in_halves(values) for name, values in scores.items()}
    probes: dict[str, Probe] = {}
    refused: dict[str, str] = {}
    prompts = np.array([item.group for item in items])
    for name, each in labels.items():
        here = np.array([value is not None for value in each], bool)
        values = in_classes([value for value in each if value is not None])
        rest = iter(values)
        labels[name] = [None if value is None else next(rest) for value in each]
        try:
            if len(set(values)) > MOST_CLASSES:
                raise TooFew(f"it has {len(set(values))} different labels, and at most {MOST_CLASSES} are probed")
            probes[name] = probe(features[here], values, prompts[here], seed)
        except TooFew as error:
            refused[name] = str(error)
    if not probes:
        raise UserError(f"reward probe {source}: " + "; ".join(f"{name}: {why}" for name, why in refused.items()))
    if centres:
        fold = folds_of_prompts(np.unique(prompts, return_inverse=True)[1], PROBE_FOLDS, seed)
        keep_centres(centres, reward, items, features, [labels[name] for name in probes], fold, share, seed)
    found = ProbesFound(reward.name, features.shape[1], probes, refused)
    out.mkdir(parents=True, exist_ok=True)
    write_probes(out / "report.html", reward.name, source, probes, refused)
    write_atomically(out / "probes.json", (json.dumps(as_numbers(found), indent=2) + "\n").encode())
    return found


def _measured(name: str, items: list[RatedMedia], embed: Callable[[list[Sample]], Tensor],
              rules: list[Reward]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Features [n, d] of all samples, and their scores [n] by every rule."""
    parts: list[Tensor] = []
    scores: dict[str, list[Tensor]] = {rule.name: [] for rule in rules}
    for start in tqdm(range(0, len(items), SCORING_BATCH), desc=f"features of {name}", unit="batch"):
        samples = [item.media.sample(item.where, SCORED_FRAMES) for item in items[start:start + SCORING_BATCH]]
        parts.append(embed(samples))
        for rule in rules:
            scores[rule.name].append(scores_of(rule, samples)[0])
    return torch.cat(parts).double().numpy(), {name: torch.cat(each).double().numpy() for name, each in scores.items()}


def keep_centres(file: Path, reward: Reward, items: list[RatedMedia], features: np.ndarray,
                 labels: list[list[str | None]], fold: np.ndarray, share: float, seed: int) -> None:
    """Write the centres of each label's samples, and how large the reward's scores of all of them are apart, to a file.
    Raises UserError for a reward that scores all alike."""
    parts = []
    for start in tqdm(range(0, len(items), SCORING_BATCH), desc=f"scores by {reward.name}", unit="batch"):
        parts.append(reward.score([item.media.sample(item.where, SCORED_FRAMES)
                                   for item in items[start:start + SCORING_BATCH]]).values)
    try:
        found = fit_centres(features, labels, fold, torch.cat(parts).double().numpy(), share, seed)
    except ValueError as error:
        raise UserError(f"reward probe --centres: {reward.name}: {error}") from None
    write_tensors(file, found._asdict())


def in_halves(scores: np.ndarray) -> list[str | None]:
    """`high` above the median, `low` below it or at it; None where there is no score."""
    known = np.isfinite(scores)
    middle = np.median(scores[known]) if known.any() else np.nan
    return [(HIGH if score > middle else LOW) if finite else None
            for score, finite in zip(scores, known, strict=True)]


def in_classes(labels: list[str]) -> list[str]:
    """The labels; numbers of more than MOST_CLASSES different values in halves."""
    if len(set(labels)) <= MOST_CLASSES:
        return labels
    try:
        return [half or LOW for half in in_halves(np.array(labels, np.float64))]
    except ValueError:
        return labels


def as_numbers(found: ProbesFound) -> dict[str, Any]:
    """As written: each probe with its selectivity and chance."""
    return {"reward": found.reward, "features": found.features, "refused": found.refused, "probes": {
        name: asdict(each) | {"selectivity": each.selectivity, "chance": each.chance}
        for name, each in found.probes.items()}}


def probe_lines(found: ProbesFound) -> list[str]:
    """The printed table, what is held most first."""
    width = max(map(len, [*found.probes, *found.refused, "label"]))
    lines = [f"{'label':{width}} {'classes':>7} {'samples':>7} {'prompts':>7}  {'accuracy':22} {'shuffled':22} "
             f"{'selectivity':>11} {'chance':>6}"]
    for name, each in sorted(found.probes.items(), key=lambda pair: -pair[1].selectivity):
        accuracy = f"{each.accuracy.value:.3f} [{each.accuracy.low:.3f}, {each.accuracy.high:.3f}]"
        shuffled = f"{each.control:.3f} ({each.control_range[0]:.3f} to {each.control_range[1]:.3f})"
        left = f"  left out: {', '.join(each.left_out)}" if each.left_out else ""
        lines.append(f"{name:{width}} {len(each.recall):7} {each.samples:7} {each.prompts:7}  {accuracy:22} "
                     f"{shuffled:22} {each.selectivity:+11.3f} {each.chance:6.3f}{left}")
    return [*lines, *(f"{name:{width}} not probed: {why}" for name, why in found.refused.items())]
