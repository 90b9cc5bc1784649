"""`evaluate --oracle`, `compare --oracle`: what a few labels of an oracle say of models by their many scores (CJE).

    labels -> joined to scores by prompt and content -> evaluators/calibration.py -> every model's level

Labels of samples: scores are mapped to labels, and a level is a model's mean label. Several labels of one sample count
as one, their mean. Samples that are not among those measured, such as an earlier evaluation's, are scored once more.

Votes: of each model those count that were given between a sample of it and one of the base. The model's score less the
base's is mapped to whether the model won, and its level is the share that its samples win against the base's of the
same prompt and seed. Votes are not turned round, nor is one model's curve another's: the same difference means more of
a model that wins more often, since scores are noisy.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, NamedTuple

import numpy as np

from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.data.ratings import (
    RatedMedia,
    has_outcomes,
    media_content,
    media_group,
    read_outcomes,
    read_ratings,
    row_rating,
)
from visalign.data.rows import BadRow
from visalign.errors import UserError
from visalign.evaluation.compare import Results
from visalign.evaluation.measure import FILES_AT_ONCE
from visalign.evaluation.oracle import CalibratedLevel, CalibratedReward, OracleReading
from visalign.evaluators.calibration import LEAST_LABELS, InvertedReward, OutsideLabels, RewardCalibration
from visalign.evaluators.statistics import Estimate, TooFew
from visalign.rewards import Reward, scores_of

CURVE_POINTS, REACH = 101, (0.025, 0.975)
Key = tuple[str, str]
"""Of a sample: its prompt's group and the hash of its content."""
ScoreOf = Callable[[Key], float]
SamplesByKey = dict[Key, tuple[AnnotatedMedia, str]]
"""Samples, each with its row."""


class CalibrationInputs(NamedTuple):
    """What a calibration is given, each [n]; labels only of what is labelled. count: of labels. keys: of labelled
    samples."""

    scores: np.ndarray
    prompts: np.ndarray
    labels: np.ndarray = np.empty(0)
    count: int = 0
    keys: tuple[Key, ...] = ()

    def of_samples(self, own: Set[Key]) -> np.ndarray:
        """Which of the labelled samples are among these, [n]."""
        return np.array([key in own for key in self.keys], dtype=bool)


@dataclass(frozen=True)
class OracleLabels(ABC):
    """Labels by an oracle, of any samples, in [low, high]; column: what they are called. source: their table.
    at_random: whether those of a model's samples were drawn from them at random.

    of_votes: whether levels are shares won against the base.
    """

    source: str
    column: str
    low: float
    high: float
    at_random: bool

    of_votes: ClassVar[bool]

    @abstractmethod
    def elsewhere(self, known: Set[Key]) -> tuple[int, SamplesByKey]:
        """How many labels are of other samples than those `known`, and which of these are to be scored for them.

        Raises UserError for a file that cannot be read.
        """

    @abstractmethod
    def questions(self, results: Results) -> list[list[str]]:
        """The models that one curve is for, and so on."""

    @abstractmethod
    def labelled(self, score: ScoreOf, results: Results, models: list[str]) -> CalibrationInputs:
        """What is labelled, of what these models' curve is made of, and has a score."""

    @abstractmethod
    def of_model(self, results: Results, reward: str, model: str) -> CalibrationInputs:
        """What a model's level is the mean over."""

    @abstractmethod
    def raw(self, results: Results, reward: str, model: str) -> Estimate | None:
        """What the reward says by itself."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Of labels: samples that have one, or votes."""


@dataclass(frozen=True)
class SampleLabels(OracleLabels):
    """A label of each sample."""

    rated: list[RatedMedia]

    of_votes = False

    @cached_property
    def keys(self) -> list[Key]:
        return [(each.group, media_content(each.media, each.where)) for each in self.rated]

    @property
    def count(self) -> int:
        return len(set(self.keys))

    def elsewhere(self, known: Set[Key]) -> tuple[int, SamplesByKey]:
        found = {key: (each.media, each.where) for key, each in zip(self.keys, self.rated, strict=True)
                 if key not in known}
        return len(found), found

    def questions(self, results: Results) -> list[list[str]]:
        return [results.models]

    def labelled(self, score: ScoreOf, results: Results, models: list[str]) -> CalibrationInputs:
        labels: dict[Key, list[float]] = defaultdict(list)
        for key, each in zip(self.keys, self.rated, strict=True):
            labels[key].append(each.labels[self.column])
        used = [key for key in labels if np.isfinite(score(key))]
        return CalibrationInputs(np.array([score(key) for key in used]),
                                 np.array([prompt for prompt, _ in used], dtype=str),
                                 np.array([np.mean(labels[key]) for key in used]), len(used), tuple(used))

    def of_model(self, results: Results, reward: str, model: str) -> CalibrationInputs:
        return _finite(_scores(results, reward, model), results.matched.prompts)

    def raw(self, results: Results, reward: str, model: str) -> Estimate | None:
        return results.figures[model].get(f"reward/{reward}")


@dataclass(frozen=True)
class VoteLabels(OracleLabels):
    """Which of two samples of a prompt won: 1 the first, 0 the second, 1/2 a tie."""

    votes: list[Annotation]

    of_votes = True

    @cached_property
    def keys(self) -> list[tuple[Key, Key]]:
        return [tuple((media_group(side), media_content(side, each.where)) for side in (each.a, each.b))
                for each in self.votes]

    @property
    def count(self) -> int:
        return len(self.votes)

    def elsewhere(self, known: Set[Key]) -> tuple[int, SamplesByKey]:
        return sum(not known >= set(keys) for keys in self.keys), {}

    def questions(self, results: Results) -> list[list[str]]:
        return [[model] for model in results.models if model != results.base]

    def labelled(self, score: ScoreOf, results: Results, models: list[str]) -> CalibrationInputs:
        base, mine = _keys(results, results.base), set().union(*(_keys(results, model) for model in models))
        both, found = base & mine, []
        for (a, b), vote in zip(self.keys, self.votes, strict=True):
            won = vote.outcome[self.column]
            for own, other, outcome in ((a, b, won), (b, a, 1 - won)):
                if own in mine and other in base and not both & {own, other}:
                    found.append((score(own) - score(other), outcome, own[0]))
        found = [each for each in found if np.isfinite(each[0])]
        margins, outcomes, prompts = zip(*found, strict=True) if found else ((), (), ())
        return CalibrationInputs(np.array(margins), np.array(prompts, dtype=str), np.array(outcomes), len(found))

    def of_model(self, results: Results, reward: str, model: str) -> CalibrationInputs:
        return _finite(_scores(results, reward, model) - _scores(results, reward, results.base),
                       results.matched.prompts)

    def raw(self, results: Results, reward: str, model: str) -> Estimate | None:
        rate = results.wins.get(reward, {}).get(model)
        return None if rate is None else rate.share


def _keys(results: Results, model: str) -> set[Key]:
    """Of every sample of a model."""
    return {(prompt, digest) for prompt, row in zip(results.matched.prompts, results.measured[model].digests,
                                                    strict=True) for digest in row}


def _scores(results: Results, reward: str, model: str) -> np.ndarray:
    return results.measured[model].rewards[reward].double().numpy()


def _finite(scores: np.ndarray, prompts: list[str]) -> CalibrationInputs:
    """Of scores [P, K] those that are known."""
    known = np.isfinite(scores)
    return CalibrationInputs(scores[known], np.repeat(prompts, scores.shape[1]).reshape(scores.shape)[known])


def read_oracle(source: str, column: str, low: float, high: float, at_random: bool = False) -> OracleLabels:
    """The labels or votes of a table. Raises UserError for a label outside [low, high], for too few of them, and for
    votes `at_random`."""
    def label(row: dict, name: str, where: str) -> float | None:
        value = row_rating(row, name, where)
        if value is not None and not low <= value <= high:
            raise BadRow(f"{where}: '{name}' is {value:g} (allowed: {low:g} to {high:g}; --oracle-range LOW:HIGH is "
                         "for labels on another scale)")
        return value

    found: OracleLabels
    if has_outcomes(source, column):
        if (low, high) != (0, 1):
            raise UserError(f"oracle {source}: holds comparisons, which have no scale; leave --oracle-range out")
        if at_random:
            raise UserError(f"oracle {source}: holds comparisons, of which none is of a model's samples alone; leave "
                            "--oracle-random out")
        votes = read_outcomes(source, column)
        found = VoteLabels(source, column, low, high, at_random, votes)
        prompts, what = [media_group(each.a) for each in votes], "votes"
    else:
        rated = read_ratings(source, (column,), label=label)
        found = SampleLabels(source, column, low, high, at_random, rated)
        prompts, what = [each.group for each in rated], "labels"
    if len(prompts) < LEAST_LABELS:
        raise UserError(f"oracle {source}: holds {len(prompts)} {what} in '{column}', and a calibration needs at least "
                        f"{LEAST_LABELS}")
    if len(set(prompts)) < 2:
        raise UserError(f"oracle {source}: all {what} in '{column}' are of one prompt, and a calibration needs those "
                        "of at least 2")
    return found


def oracle_reading(results: Results, labels: OracleLabels, load: Callable[[], list[Reward]]) -> OracleReading:
    """Every model's level by every reward; `load`: the rewards, where samples have to be scored once more."""
    scores = _known_scores(results)
    elsewhere, lacking = labels.elsewhere(scores.keys())
    if lacking:
        scores |= _scored(lacking, load())
    found = [_by_reward(name, results, labels, models, scores) for name in results.measured[results.base].rewards
             for models in labels.questions(results)]
    return OracleReading(labels.source, labels.column, labels.low, labels.high, labels.of_votes, results.base,
                         labels.count, elsewhere, found)


def _known_scores(results: Results) -> dict[Key, dict[str, float]]:
    """The scores of every sample that was measured, by reward."""
    found: dict[Key, dict[str, float]] = {}
    for metrics in results.measured.values():
        columns = {name: scores.double().numpy() for name, scores in metrics.rewards.items()}
        for p, prompt in enumerate(results.matched.prompts):
            for k, digest in enumerate(metrics.digests[p]):
                found[prompt, digest] = {name: float(scores[p, k]) for name, scores in columns.items()}
    return found


def _scored(items: SamplesByKey, rewards: list[Reward]) -> dict[Key, dict[str, float]]:
    """Samples that are not among those measured, by every reward that need not see all samples of a prompt at once."""
    found: dict[Key, dict[str, float]] = {key: {} for key in items}
    keys = list(items)
    for start in range(0, len(keys), FILES_AT_ONCE):
        part = keys[start:start + FILES_AT_ONCE]
        samples = [media.sample(where, 64) for media, where in map(items.get, part)]
        for reward in rewards:
            if not reward.needs_group:
                for key, value in zip(part, scores_of(reward, samples)[0].tolist(), strict=True):
                    found[key][reward.name] = value
    return found


def _by_reward(name: str, results: Results, labels: OracleLabels, models: list[str],
               scores: dict[Key, dict[str, float]]) -> CalibratedReward:
    given = labels.labelled(lambda key: scores[key].get(name, np.nan), results, models)
    told = CalibratedReward(name, tuple(models), given.count)
    try:
        if given.count < LEAST_LABELS:
            raise TooFew(f"a calibration needs at least {LEAST_LABELS} of them")
        known = RewardCalibration(given.scores, given.labels, given.prompts)
    except (TooFew, InvertedReward) as error:
        return replace(told, refused=str(error))
    places = np.linspace(given.scores.min(), given.scores.max(), CURVE_POINTS)
    return replace(told, two_stage=known.two_stage, scores=tuple(given.scores.tolist()),
                   labels=tuple(given.labels.tolist()), levels={model: _level(name, model, results, labels, known,
                                                                              given) for model in models},
                   curve=tuple(zip(places.tolist(), known.curve(places[:, None]).tolist(), strict=True)))


def _level(name: str, model: str, results: Results, labels: OracleLabels, known: RewardCalibration,
           given: CalibrationInputs) -> CalibratedLevel:
    mine, raw = labels.of_model(results, name, model), labels.raw(results, name, model)
    reach = tuple(np.quantile(mine.scores, REACH).tolist()) if len(mine.scores) else ()
    drawn = [given.of_samples(_keys(results, each)) for each in (model, results.base)] if labels.at_random else None
    try:
        level = known.mean(mine.scores, mine.prompts, drawn[0] if drawn else None)
    except (OutsideLabels, TooFew) as error:
        return CalibratedLevel(raw, reach, refused=str(error))
    if labels.of_votes or model == results.base:
        return CalibratedLevel(raw, reach, level)
    base = labels.of_model(results, name, results.base)
    try:
        gain = known.difference(mine.scores, mine.prompts, base.scores, base.prompts, drawn)
    except (OutsideLabels, TooFew):  # the base's own line says why
        gain = None
    return CalibratedLevel(raw, reach, level, gain)
