"""`visalign reward fit-weights`: how much several rewards count for which prompts, by labelled pairs.

A fifth of the prompts is held out; what is told was measured on them, beside weights that are the same for all prompts,
and equal ones.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visalign.data.annotations import read_annotations
from visalign.errors import UserError
from visalign.evaluation.reward_eval import score_annotations
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate
from visalign.jobs.reward_direction import with_features
from visalign.rewards.pairwise import PairReward
from visalign.rewards.prompt_weights import PromptWeights, fit_prompt_weights
from visalign.rewards.registry import load_rewards
from visalign.sampling.seeds import rng_for
from visalign.storage.weights import write_tensors

LEAST_PROMPTS, HELD_OUT = 20, 0.2


@dataclass(frozen=True)
class WeightsFound:
    """pairs: decided ones that all rewards score; left_out: others. accuracy: on held-out prompts, by what weighs.
    gain: of weights by prompt over the same for all. heaviest: by reward the held-out prompts at which it weighs most,
    and how much there."""

    columns: tuple[str, ...]
    pairs: int
    left_out: int
    accuracy: dict[str, Estimate]
    gain: Estimate
    heaviest: dict[str, list[tuple[str, float]]]


def learn_prompt_weights(data: str, rewards: list[str], prompts_by: str, out: Path, *, dimension: str = "alignment",
                         penalty: float = 1e-3, media_root: str | None = None, seed: int = 0,
                         device: str = "cpu") -> WeightsFound:
    """Write the weights of rewards to the .safetensors file `out`.

    Raises UserError for fewer than two columns, one that compares, too few prompts, and a reward that is constant.
    """
    text = with_features(prompts_by, out, device)
    models = load_rewards(rewards, device)
    compares = next((model.name for model in models if isinstance(model, PairReward)), None)
    if compares:
        raise UserError(f"reward {compares}: compares samples and gives none a value that could be weighed")
    columns = tuple(f"{model.name}.{name}" for model in models for name in model.dimensions)
    if len(columns) < 2:
        raise UserError(f"reward fit-weights: {columns[0]} is the only one; name at least two with --rewards")
    labels = dict.fromkeys([dimension, *(name for model in models for name in model.dimensions)])
    items = read_annotations(data, tuple(labels), media_root)
    a, b = both_sides(models, items)
    outcome = np.array([item.outcome.get(dimension, np.nan) for item in items])
    known = np.isin(outcome, (0.0, 1.0)) & np.isfinite(a).all(1) & np.isfinite(b).all(1) & np.array(
        [item.a.prompt == item.b.prompt and bool(item.prompt.strip()) for item in items])
    prompts = np.array([item.prompt for item in items], dtype=object)[known]
    names = list(dict.fromkeys(prompts))
    if len(names) < LEAST_PROMPTS:
        raise UserError(f"data {data}: {len(names)} prompts have a decided pair that all rewards score, and at least "
                        f"{LEAST_PROMPTS} are needed, since a fifth of them is held out")
    order = torch.randperm(len(names), generator=rng_for(seed, "held out")).tolist()
    held_names = {names[i] for i in order[:max(2, round(HELD_OUT * len(names)))]}
    held = np.array([prompt in held_names for prompt in prompts])
    features = text.prompt_features(names)[0].float().cpu()
    place = {name: i for i, name in enumerate(names)}
    e = features[[place[prompt] for prompt in prompts]]
    first, second = (torch.from_numpy(side[known]).float() for side in (a, b))
    won = torch.from_numpy(outcome[known] == 1)
    try:
        fitted = {kind: fit_prompt_weights(first[~held], second[~held], won[~held], e[~held], penalty, kind == "prompt")
                  for kind in ("prompt", "all")}
    except ValueError as error:
        raise UserError(f"data {data}: {error}, in the order of {', '.join(columns)}; leave it out") from None
    equal = fitted["all"]._replace(head=torch.zeros_like(fitted["all"].head), bias=torch.zeros(len(columns)))
    ways = {"by prompt": fitted["prompt"], "the same for all prompts": fitted["all"], "equal": equal}
    right = {name: ordered_rightly(weights, first, second, won, e)[held] for name, weights in ways.items()}
    groups = prompts[held].astype(str)
    weights = fitted["prompt"]
    write_tensors(out, weights._asdict(), {"rewards": ",".join(columns), "prompts_by": prompts_by, "data": data})
    return WeightsFound(
        columns, len(prompts), len(items) - len(prompts),
        {name: clustered_mean(each, groups) for name, each in right.items()},
        clustered_mean(right["by prompt"] - right["the same for all prompts"], groups, lowest=-1.0),
        heaviest_prompts(weights, columns, sorted(held_names), features[[place[name] for name in sorted(held_names)]]))


def both_sides(models: list, items: list) -> tuple[np.ndarray, np.ndarray]:
    """Values of both sides of annotations by all rewards, [n, K], larger the better."""
    scored = [score_annotations(model, items, edits=False) for model in models]
    return tuple(np.concatenate([getattr(each, side) for each in scored], 1) for side in ("a", "b"))


def ordered_rightly(weights: PromptWeights, a: Tensor, b: Tensor, a_won: Tensor, features: Tensor) -> np.ndarray:
    """1 where the winner is preferred, 1/2 where both are alike, else 0; [n]."""
    margins = weights.combine(a, features) - weights.combine(b, features)
    toward = torch.where(a_won, margins, -margins)
    return ((toward > 0) + 0.5 * (toward == 0)).double().numpy()


def heaviest_prompts(weights: PromptWeights, columns: tuple[str, ...], prompts: list[str], features: Tensor,
                     most: int = 3) -> dict[str, list[tuple[str, float]]]:
    found = weights.of(features)
    return {name: [(prompts[i], found[i, k].item()) for i in found[:, k].argsort(descending=True)[:most].tolist()]
            for k, name in enumerate(columns)}


def weights_lines(found: WeightsFound) -> list[str]:
    """Accuracy by what weighs, and where each reward counts most."""
    left = f", {found.left_out} others left out" if found.left_out else ""
    lines = [f"{found.pairs} pairs{left}; accuracy on held-out prompts, by weights that are"]
    lines += [f"  {name:25} {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"
              for name, each in found.accuracy.items()]
    gain = found.gain
    lines.append(f"  by prompt over all alike  {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")
    return lines + [f"{name} counts most for " + "; ".join(f"{prompt!r} ({weight:.2f})" for prompt, weight in each)
                    for name, each in found.heaviest.items()]
