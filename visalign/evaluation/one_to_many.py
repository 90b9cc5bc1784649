"""`visalign reward eval --many`: rated samples, grouped by prompt, against a reward.

In a labelled dimension the best rated samples of a prompt are right and its others wrong; a prompt whose samples are
all rated alike tests nothing, and one with a sample that has no score is left out.
"""

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np
from tqdm import tqdm

from visalign.data.ratings import RatedMedia
from visalign.evaluation.reward_eval import SCORED_FRAMES, SCORING_BATCH, column_for
from visalign.evaluators.one_to_many import OneToMany, one_to_many
from visalign.rewards import Reward


@dataclass(frozen=True)
class ManyReport:
    """One labelled dimension: all prompts, by kind, and what was left out: prompts rated alike, and without a score.
    worst: the rows of `items` of the best right and the highest wrong sample where a wrong one is farthest above."""

    dimension: str
    scored_by: str
    overall: OneToMany
    parts: dict[str, OneToMany]
    alike: int
    not_scored: int
    worst: list[tuple[int, int]]


def score_rated(reward: Reward, items: list[RatedMedia]) -> np.ndarray:
    """Values [n, D] of every sample, larger is better; those of one prompt meet the reward in one call."""
    sign, values = 1 if reward.higher_is_better else -1, np.full((len(items), len(reward.dimensions)), np.nan)
    rows: list[int] = []
    groups = list(rows_by_prompt(items).values())
    for place, group in enumerate(tqdm(groups, desc=f"scoring with {reward.name}", unit="prompt")):
        rows += group
        if len(rows) >= SCORING_BATCH or place == len(groups) - 1:
            samples = [items[i].media.sample(items[i].where, SCORED_FRAMES) for i in rows]
            values[rows] = sign * reward.score(samples).values.numpy()
            rows = []
    return values


def rows_by_prompt(items: list[RatedMedia]) -> dict[str, list[int]]:
    """Rows of `items` by prompt."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        found[item.group].append(i)
    return dict(found)


def many_report(reward: Reward, dimension: str, items: list[RatedMedia], values: np.ndarray) -> ManyReport | None:
    """Figures of one labelled dimension; None where no prompt has right samples, wrong ones, and scores of all."""
    column, alike, not_scored = column_for(reward, dimension), 0, 0
    kept: list[tuple[list[int], np.ndarray]] = []
    for rows in rows_by_prompt(items).values():
        mine = [i for i in rows if dimension in items[i].labels]
        labels = np.array([items[i].labels[dimension] for i in mine])
        if not mine or np.ptp(labels) == 0:
            alike += bool(mine)
        elif not np.isfinite(values[mine, column]).all():
            not_scored += 1
        else:
            kept.append((mine, labels == labels.max()))
    if not kept:
        return None

    def tested(groups: list[tuple[list[int], np.ndarray]]) -> OneToMany:
        return one_to_many([values[rows, column] for rows, _ in groups], [right for _, right in groups])

    kinds = sorted({items[rows[0]].kind for rows, _ in kept} - {""})
    return ManyReport(dimension, reward.dimensions[column], tested(kept),
                      {kind: tested([each for each in kept if items[each[0][0]].kind == kind]) for kind in kinds},
                      alike, not_scored, _worst(values[:, column], kept))


def _worst(values: np.ndarray, groups: list[tuple[list[int], np.ndarray]]) -> list[tuple[int, int]]:
    """(right, wrong) of every prompt of which a wrong sample is above all right ones, the farthest first."""
    found = []
    for rows, right in groups:
        places, scores = np.array(rows), values[rows]
        best, above = places[right][scores[right].argmax()], places[~right][scores[~right].argmax()]
        if values[above] > values[best]:
            found.append((int(best), int(above)))
    return sorted(found, key=lambda pair: values[pair[0]] - values[pair[1]])


def many_json(reward: Reward, reports: dict[str, ManyReport]) -> dict:
    return {"reward": reward.name, "dimensions": {name: {key: value for key, value in asdict(report).items()
                                                         if key != "worst"} for name, report in reports.items()}}


def many_lines(reports: dict[str, ManyReport]) -> list[str]:
    """The printed table: by dimension and kind."""
    lines = [f"{'dimension':12} {'set':16} {'prompts':>7} {'samples':>7}  {'accuracy@1':24} {'chance':>6}  "
             f"{'reciprocal rank':24} {'chance':>6}  {'ties passed'}"]
    for report in reports.values():
        for name, part in {"all": report.overall, **report.parts}.items():
            ties = "" if part.passed is None else f"{_interval(part.passed)} of {part.ties}"
            lines.append(f"{report.dimension:12} {name:16} {part.prompts:7} {part.samples:7.1f}  "
                         f"{_interval(part.accuracy):24} {part.accuracy_by_chance:6.3f}  "
                         f"{_interval(part.reciprocal_rank):24} {part.rank_by_chance:6.3f}  {ties}".rstrip())
        every = report.overall
        lines.append(f"{report.dimension:12} scored by {report.scored_by}; single pairs "
                     f"{_interval(every.pair_accuracy)}, by which accuracy@1 would be {every.independent:.3f} if they "
                     f"were independent; left out: {report.alike} prompts rated alike, {report.not_scored} not scored")
    return lines


def _interval(estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
