"""`evaluate --oracle`, `compare --oracle`: a model's mean label by many scores and a few labels of an oracle (CJE).

    labels -> joined to scores by prompt and content -> evaluators/calibration.py -> level and gain of every model

Labels of other samples, such as an earlier evaluation's, count as well: the rewards score these once more. Several
labels of one sample count as one, their mean.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visalign.data.ratings import RatedMedia, read_ratings, row_rating
from visalign.data.rows import BadRow
from visalign.errors import UserError
from visalign.evaluation.compare import Results
from visalign.evaluation.measure import FILES_AT_ONCE, GenerationMetrics
from visalign.evaluation.oracle import CalibratedLevel, CalibratedReward, OracleReading
from visalign.evaluators.calibration import LEAST_LABELS, InvertedReward, OutsideLabels, RewardCalibration
from visalign.evaluators.statistics import TooFew
from visalign.rewards import Reward, scores_of

CURVE_POINTS = 101
Key = tuple[str, str]
"""Of a sample: its prompt's group and the hash of its content."""


@dataclass(frozen=True)
class OracleLabels:
    """Labels by an oracle, of any samples, in [low, high]; column: what they are called. source: their table."""

    source: str
    column: str
    low: float
    high: float
    rated: list[RatedMedia]

    def by_sample(self) -> dict[Key, list[RatedMedia]]:
        """The labels of each sample. Raises UserError for a file that cannot be read."""
        found: dict[Key, list[RatedMedia]] = defaultdict(list)
        for each in self.rated:
            found[each.group, each.content()].append(each)
        return found


def read_oracle(source: str, column: str, low: float, high: float, media_root: str | None = None) -> OracleLabels:
    """The labels of a table. Raises UserError for a label outside [low, high], and for too few of them."""
    def label(row: dict, name: str, where: str) -> float | None:
        value = row_rating(row, name, where)
        if value is not None and not low <= value <= high:
            raise BadRow(f"{where}: '{name}' is {value:g} (allowed: {low:g} to {high:g}; --oracle-range LOW:HIGH is "
                         "for labels on another scale)")
        return value

    rated = read_ratings(source, (column,), media_root, label)
    if len(rated) < LEAST_LABELS:
        raise UserError(f"oracle {source}: holds {len(rated)} labels in '{column}', and a calibration needs at least "
                        f"{LEAST_LABELS}")
    if len({each.group for each in rated}) < 2:
        raise UserError(f"oracle {source}: all labels in '{column}' are of one prompt, and a calibration needs those "
                        "of at least 2")
    return OracleLabels(source, column, low, high, rated)


def oracle_reading(results: Results, labels: OracleLabels, load: Callable[[], list[Reward]]) -> OracleReading:
    """Every model's mean label by every reward; `load`: the rewards, where samples have to be scored once more."""
    by_sample, scores = labels.by_sample(), _known_scores(results)
    lacking = {key: rated[0] for key, rated in by_sample.items() if key not in scores}
    if lacking:
        scores |= _scored(lacking, load())
    values = {key: float(np.mean([each.labels[labels.column] for each in rated])) for key, rated in by_sample.items()}
    found = {name: _by_reward(name, results, values, scores) for name in results.measured[results.base].rewards}
    return OracleReading(labels.source, labels.column, labels.low, labels.high, len(values), len(lacking), found)


def _known_scores(results: Results) -> dict[Key, dict[str, float]]:
    """The scores of every sample that was measured, by reward."""
    found: dict[Key, dict[str, float]] = {}
    for metrics in results.measured.values():
        columns = {name: scores.double().numpy() for name, scores in metrics.rewards.items()}
        for p, prompt in enumerate(results.matched.prompts):
            for k, digest in enumerate(metrics.digests[p]):
                found[prompt, digest] = {name: float(scores[p, k]) for name, scores in columns.items()}
    return found


def _scored(items: dict[Key, RatedMedia], rewards: list[Reward]) -> dict[Key, dict[str, float]]:
    """Samples that are not among those measured, by every reward that need not see all samples of a prompt at once."""
    found: dict[Key, dict[str, float]] = {key: {} for key in items}
    keys = list(items)
    for start in range(0, len(keys), FILES_AT_ONCE):
        part = keys[start:start + FILES_AT_ONCE]
        samples = [items[key].media.sample(items[key].where, 64) for key in part]
        for reward in rewards:
            if not reward.needs_group:
                for key, value in zip(part, scores_of(reward, samples)[0].tolist(), strict=True):
                    found[key][reward.name] = value
    return found


def _by_reward(name: str, results: Results, values: dict[Key, float],
               scores: dict[Key, dict[str, float]]) -> CalibratedReward:
    used = [key for key in values if np.isfinite(scores[key].get(name, np.nan))]
    mine, labels = np.array([scores[key][name] for key in used]), np.array([values[key] for key in used])
    try:
        known = RewardCalibration(mine, labels, [prompt for prompt, _ in used])
    except (TooFew, InvertedReward) as error:
        return CalibratedReward(len(used), str(error))
    places = np.linspace(mine.min(), mine.max(), CURVE_POINTS)
    return CalibratedReward(len(used), None, known.two_stage, {
        model: _level(name, model, results, known) for model in results.models}, tuple(mine.tolist()),
        tuple(labels.tolist()), tuple(zip(places.tolist(), known.curve(places[:, None]).tolist(), strict=True)))


def _level(name: str, model: str, results: Results, known: RewardCalibration) -> CalibratedLevel:
    raw = results.figures[model].get(f"reward/{name}")
    mine = _finite(results.measured[model], name, results.matched.prompts)
    base = _finite(results.measured[results.base], name, results.matched.prompts)
    try:
        level = known.mean(*mine)
    except (OutsideLabels, TooFew) as error:
        return CalibratedLevel(raw, refused=str(error))
    try:
        gain = None if model == results.base else known.difference(*mine, *base)
    except (OutsideLabels, TooFew):  # the base's own line says why
        gain = None
    return CalibratedLevel(raw, level, gain)


def _finite(metrics: GenerationMetrics, name: str, prompts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the generations that have one, and their prompts."""
    scores = metrics.rewards[name].double().numpy()
    known = np.isfinite(scores)
    return scores[known], np.repeat(prompts, scores.shape[1]).reshape(scores.shape)[known]


