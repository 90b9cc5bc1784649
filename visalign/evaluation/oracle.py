"""What an oracle's labels say of models, by every reward: mean labels with their intervals, or why there are none."""

from dataclasses import dataclass, field
from typing import Any

from visalign.evaluators.calibration import FEW_LABELS, CalibratedMean
from visalign.evaluators.statistics import Estimate


@dataclass(frozen=True)
class CalibratedLevel:
    """Of a model by one reward. raw: the reward's own mean. level: the mean label; gain: how much more it is than the
    base's (None for the base). refused: why there is none of these two."""

    raw: Estimate | None
    level: CalibratedMean | None = None
    gain: CalibratedMean | None = None
    refused: str | None = None


@dataclass(frozen=True)
class CalibratedReward:
    """One reward against the labels. refused: why nothing is told by it. scores, labels: of the labelled samples;
    curve: (score, label) points of f; two_stage: which regression was taken. levels {model: ...}."""

    labelled: int
    refused: str | None = None
    two_stage: bool = False
    levels: dict[str, CalibratedLevel] = field(default_factory=dict)
    scores: tuple[float, ...] = ()
    labels: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class OracleReading:
    """What labels say of all models by every reward. samples: that are labelled, of which `elsewhere` were none of
    those measured here; low, high: the range of labels."""

    source: str
    column: str
    low: float
    high: float
    samples: int
    elsewhere: int
    rewards: dict[str, CalibratedReward]


def oracle_figures(reading: OracleReading | None) -> list[tuple[str, str, Estimate]]:
    """(model, metric, estimate) of every level and gain that is told."""
    return [(model, f"calibrated{what}/{reward}", part.estimate)
            for reward, found in (reading.rewards if reading else {}).items() for model, level in found.levels.items()
            for what, part in (("", level.level), (" gain", level.gain)) if part]


def oracle_lines(reading: OracleReading) -> list[str]:
    """What is printed: of each reward a line for each model, or why there is none."""
    about = f"{reading.column} of {reading.source}, {reading.low:g} to {reading.high:g}"
    lines = []
    for reward, found in reading.rewards.items():
        lines.append(f"mean {about}, by {reward} and {found.labelled} labelled samples"
                     + (f": none, since {found.refused}" if found.refused else ""))
        width = max(map(len, found.levels), default=0)
        lines += [f"  {model:{width}}  {_level_in_words(each)}" for model, each in found.levels.items()]
        if not found.refused and found.labelled < FEW_LABELS:
            lines.append(f"  fewer than {FEW_LABELS} labels: take the intervals as rough ones")
    return lines


def _level_in_words(level: CalibratedLevel) -> str:
    raw = "" if level.raw is None else f"; the reward's own mean {_interval(level.raw)}"
    if level.level is None:
        return f"no level, since {level.refused}{raw}, by which its rank may stand"
    gain = "" if level.gain is None else f", {_interval(level.gain.estimate, '+')} more than the base"
    return f"{_interval(level.level.estimate)}{gain}{raw}"


def _interval(estimate: Estimate, sign: str = "") -> str:
    value, low, high = (f"{each:{sign}.3f}" for each in estimate)
    return f"{value} [{low}, {high}]"


def oracle_json(reading: OracleReading) -> dict[str, Any]:
    """Everything but the points of the plot."""
    return {"labels": reading.source, "column": reading.column, "range": [reading.low, reading.high],
            "samples": reading.samples, "elsewhere": reading.elsewhere, "rewards": {
                name: {"labelled": found.labelled, "refused": found.refused, "two_stage": found.two_stage,
                       "levels": found.levels} for name, found in reading.rewards.items()}}
