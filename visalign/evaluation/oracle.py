"""What an oracle's labels say of models, by every reward: mean labels with their intervals, or why there are none."""

from dataclasses import dataclass, field
from typing import Any

from visalign.evaluators.calibration import FEW_LABELS, CalibratedMean
from visalign.evaluators.statistics import Estimate


@dataclass(frozen=True)
class CalibratedLevel:
    """Of a model by one reward. raw: the reward's own mean, of votes its own share won. reach: the ends of the middle
    95 % of the model's scores. level: the mean label, of votes the share won against the base; gain: how much more it
    is than the base's (None for the base, and of votes). refused: why there is none of these two."""

    raw: Estimate | None
    reach: tuple[float, ...] = ()
    level: CalibratedMean | None = None
    gain: CalibratedMean | None = None
    refused: str | None = None


@dataclass(frozen=True)
class CalibratedReward:
    """One reward against the labels, for these models. labelled: how many samples or votes. refused: why nothing is
    told by it. scores, labels: what the curve is fitted to; curve: its (score, label) points; two_stage: which
    regression was taken. levels {model: ...}."""

    reward: str
    models: tuple[str, ...]
    labelled: int
    refused: str | None = None
    two_stage: bool = False
    levels: dict[str, CalibratedLevel] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    labels: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class OracleReading:
    """What labels say of all models by every reward. of_votes: whether they are of comparisons. given: samples that are
    labelled, or votes, of which `elsewhere` are of other samples than those measured here; low, high: the range of
    labels."""

    source: str
    column: str
    low: float
    high: float
    of_votes: bool
    base: str
    given: int
    elsewhere: int
    rewards: list[CalibratedReward]

    @property
    def means(self) -> str:
        """What a level is, in words."""
        return f"share of {self.column} won against {self.base}" if self.of_votes else f"mean {self.column}"

    @property
    def labelled(self) -> str:
        return "votes" if self.of_votes else "labelled samples"


def oracle_figures(reading: OracleReading | None) -> list[tuple[str, str, Estimate]]:
    """(model, metric, estimate) of every level and gain that is told."""
    if reading is None:
        return []
    kinds = f"calibrated win rate against {reading.base}" if reading.of_votes else "calibrated", "calibrated gain"
    return [(model, f"{kind}/{found.reward}", part.estimate) for found in reading.rewards
            for model, level in found.levels.items()
            for kind, part in zip(kinds, (level.level, level.gain), strict=True) if part]


def oracle_lines(reading: OracleReading) -> list[str]:
    """What is printed: of each reward a line for each model, or why there is none."""
    about = f"{reading.means}, of {reading.source}, {reading.low:g} to {reading.high:g}"
    lines = []
    for found in reading.rewards:
        of = f" of {found.models[0]}" if reading.of_votes else ""
        lines.append(f"{about}, by {found.reward} and {found.labelled} {reading.labelled}{of}"
                     + (f": none, since {found.refused}" if found.refused else ""))
        width = max(map(len, found.levels), default=0)
        lines += [f"  {model:{width}}  {_level_in_words(each, reading.of_votes)}"
                  for model, each in found.levels.items()]
        if not found.refused and found.labelled < FEW_LABELS:
            lines.append(f"  fewer than {FEW_LABELS} {reading.labelled}: take the intervals as rough ones")
    return lines


def _level_in_words(level: CalibratedLevel, of_votes: bool) -> str:
    raw = "" if level.raw is None else f"; the reward's own {'share' if of_votes else 'mean'} {_interval(level.raw)}"
    if level.level is None:
        return f"no level, since {level.refused}{raw}, by which its rank may stand"
    gain = "" if level.gain is None else f", {_interval(level.gain.estimate, '+')} more than the base"
    return f"{_interval(level.level.estimate)}{gain}{raw}"


def _interval(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{each:{sign}.3f}" for each in estimate)
    return f"{value} [{low}, {high}]"


def oracle_json(reading: OracleReading) -> dict[str, Any]:
    """Everything but what is only drawn."""
    return {"labels": reading.source, "column": reading.column, "range": [reading.low, reading.high],
            "of_votes": reading.of_votes, "given": reading.given, "elsewhere": reading.elsewhere, "rewards": [
                {"reward": found.reward, "models": found.models, "labelled": found.labelled, "refused": found.refused,
                 "two_stage": found.two_stage, "levels": {
                     model: {"raw": each.raw, "level": each.level, "gain": each.gain, "refused": each.refused}
                     for model, each in found.levels.items()}} for found in reading.rewards]}
