"""`visalign reward distance`: how far several rewards are from each other on the same samples, as a table and a page.

The scores are kept in the output folder, and found there when the command is given again.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from visalign.config.sources import PromptsFrom
from visalign.data.generations import find_generations
from visalign.errors import UserError
from visalign.evaluators.reward_distance import ConstantReward, RewardDistances, reward_distances
from visalign.evaluators.statistics import TooFew
from visalign.jobs.make_pairs import check_scores
from visalign.jobs.score import identity_of, read_table, score_generations
from visalign.reports.reward_distance import write_reward_distances
from visalign.rewards import Reward
from visalign.rewards.reference import GROUP
from visalign.rewards.registry import load_rewards
from visalign.storage.files import write_atomically


@dataclass(frozen=True)
class DistancesFound:
    """The distances, the page with them and every number as JSON. silent: dimensions of rewards that scored none of the
    samples, as motion of an image, and were left out."""

    distances: RewardDistances
    page: Path
    numbers: Path
    silent: tuple[str, ...] = ()


def measure_reward_distances(source: str, specs: list, out: Path, *, device: str = "cpu", max_failures: float = 0.05,
                            prompts_from: PromptsFrom = "auto", media_root: str | None = None,
                            seed: int = 0) -> DistancesFound:
    """Score `source` by every reward and write scores.parquet, distances.json and report.html into `out`.

    Every dimension of a reward counts as one. Raises UserError for fewer than two, one that is constant within every
    prompt, samples that are all alone with their prompt, and whatever `visalign score` refuses.
    """
    rewards = load_rewards(specs, device)
    if sum(len(reward.dimensions) for reward in rewards) < 2:
        raise UserError(f"reward distance: {rewards[0].name} is the only one; name at least two with --rewards")
    table = _scored(source, specs, out, device, max_failures, prompts_from, media_root)
    groups = np.array(table.column(GROUP if GROUP in table.column_names else "prompt").to_pylist(), dtype=object)
    asked = np.array([group is not None and group != "" for group in groups])
    scores = {name: values[asked] for name, values in scores_by_name(table, rewards).items()}
    silent = tuple(name for name, values in scores.items() if not np.isfinite(values).any())
    for reward in rewards:
        if set(names_of(reward)) <= set(silent):
            raise UserError(f"reward distance {source}: {reward.name} scored no sample with a prompt; leave it out of "
                            "--rewards")
    scores = {name: values for name, values in scores.items() if name not in silent}
    if len(scores) < 2:
        raise UserError(f"reward distance {source}: {next(iter(scores))} is the only one that scored samples with a "
                        "prompt; name at least two with --rewards")
    try:
        distances = reward_distances(scores, groups[asked].astype(str), seed)
    except ConstantReward as error:
        raise UserError(f"reward distance {source}: {error}; leave it out of --rewards") from None
    except TooFew as error:
        raise UserError(f"reward distance {source}: {error}; generate with --samples-per-prompt 2 or more") from None
    numbers, page = out / "distances.json", out / "report.html"
    write_reward_distances(page, distances, source)
    write_atomically(numbers, (json.dumps(as_json(distances), indent=2) + "\n").encode())
    return DistancesFound(distances, page, numbers, silent)


def _scored(source: str, specs: list, out: Path, device: str, max_failures: float, prompts_from: PromptsFrom,
            media_root: str | None) -> pa.Table:
    """The table of scores in `out`, scored now unless it is there already, of these rewards and files."""
    scores = out / "scores.parquet"
    if scores.exists() and not scores.with_name(f"{scores.name}.parts").exists():
        entries = find_generations(source, prompts_from, media_root)
        check_scores(scores, identity_of(source, specs, entries), entries)
    else:
        score_generations(source, specs, scores, device=device, max_failures=max_failures, prompts_from=prompts_from,
                          media_root=media_root, gallery=False)
    return read_table(scores)


def scores_by_name(table: pa.Table, rewards: list[Reward]) -> dict[str, np.ndarray]:
    """Of every dimension of every reward its scores, float64 [n], NaN where it has none, larger the better."""
    scores = {}
    for reward in rewards:
        sign = 1 if reward.higher_is_better else -1
        for name, dimension in zip(names_of(reward), reward.dimensions, strict=True):
            scores[name] = sign * np.array(table.column(f"{reward.name}.{dimension}").to_pylist(), np.float64)
    return scores


def names_of(reward: Reward) -> list[str]:
    """Of a reward's dimensions."""
    one = len(reward.dimensions) == 1
    return [reward.name if one else f"{reward.name}.{dimension}" for dimension in reward.dimensions]


def as_json(distances: RewardDistances) -> dict:
    """rewards, distances in their order with low and high ends (null where unknown), and of how many samples."""
    def end(value: float) -> float | None:
        return value if np.isfinite(value) else None

    names = distances.rewards
    return {"rewards": list(names), "samples": distances.samples, "prompts": distances.prompts,
            "left_out": distances.left_out,
            **{key: [[end(getattr(distances.of(a, b), part)) for b in names] for a in names]
               for key, part in (("distance", "value"), ("low", "low"), ("high", "high"))},
            "merges": distances.merges.tolist()}


def distance_lines(distances: RewardDistances) -> list[str]:
    """The pairs from the nearest to the farthest, each with its interval."""
    width = max(len(f"{a} - {b}") for a, b in distances.between)
    return [f"{f'{a} - {b}':{width}}  {value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
            for (a, b), value in sorted(distances.between.items(), key=lambda each: each[1].value)]
