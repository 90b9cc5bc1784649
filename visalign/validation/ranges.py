"""The range of every number that a user may set, stated once, in the type of the setting.

pydantic checks it wherever settings are read; `Ranged` checks the same where a dataclass is made in Python. Upper
ends are far beyond useful values: they catch typing errors and numbers meant for another setting.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Interval

Seed = Annotated[int, Interval(ge=0, lt=2**32)]
"""Multiplied by a million and incremented, it still fits torch's 64 bits."""

Limit = Annotated[int, Interval(ge=1, le=10**9)]
Often = Annotated[int, Interval(ge=0, le=10**8)]
Steps = Annotated[int, Interval(ge=1, le=10**8)]
SamplingSteps = Annotated[int, Interval(ge=1, le=1000)]
InversionSteps = Annotated[int, Interval(ge=1, le=100)]
ContextPairs = Annotated[int, Interval(ge=1, le=64)]
Few = Annotated[int, Interval(ge=1, le=10_000)]
RayWorkers = Annotated[int, Interval(ge=1, le=100_000)]
Staleness = Annotated[int, Interval(ge=0, le=16)]
FewOrNone = Annotated[int, Interval(ge=0, le=10_000)]
AtLeastTwo = Annotated[int, Interval(ge=2, le=10_000)]
LoraRank = Annotated[int, Interval(ge=1, le=2048)]
Retries = Annotated[int, Interval(ge=0, le=100)]
Together = Annotated[int, Interval(ge=1, le=1024)]
AnswerTokens = Annotated[int, Interval(ge=1, le=1_000_000)]
BatchSize = Annotated[int, Interval(ge=1, le=4096)]
JpegQuality = Annotated[int, Interval(ge=1, le=100)]
Port = Annotated[int, Interval(ge=1, le=65_535)]
Width = Annotated[int, Interval(ge=1, le=65_536)]
SideLength = Annotated[int, Interval(ge=8, le=8192)]
Enlargement = Annotated[float, Interval(gt=0, le=100)]
Frames = Annotated[int, Interval(ge=1, le=2048)]
FrameRate = Annotated[float, Interval(gt=0, le=240)]
PromptTokens = Annotated[int, Interval(ge=1, le=512)]
"""No pipeline's T5 takes more."""

Positive = Annotated[float, Interval(gt=0, le=1e9)]
Weight = Annotated[float, Interval(ge=0, le=1e6)]
SoupWeight = Annotated[float, Interval(ge=-10, le=10)]
"""Beyond 1 and below 0 lie models that go further than a run, or away from it."""
AdapterStrength = Annotated[float, Interval(ge=0, le=10)]
Signed = Annotated[float, Interval(ge=-1e6, le=1e6)]
RewardValue = Annotated[float, Interval(ge=-1e12, le=1e12)]
"""What a reward may return, in any unit: bytes, pixels, votes."""
Extrapolation = Annotated[float, Interval(ge=1, le=100)]
AboveOne = Annotated[float, Interval(gt=1, le=1e6)]
Rate = Annotated[float, Interval(gt=0, le=1)]
Share = Annotated[float, Interval(gt=0, le=1)]
Portion = Annotated[float, Interval(ge=0, le=1)]
Fraction = Annotated[float, Interval(ge=0, lt=1)]
Within = Annotated[float, Interval(gt=0, lt=1)]
HalfToOne = Annotated[float, Interval(ge=0.5, le=1)]
UnderHalf = Annotated[float, Interval(ge=0, lt=0.5)]
GuidanceScale = Annotated[float, Interval(ge=0, le=100)]
Shift = Annotated[float, Interval(gt=0, le=100)]
Temperature = Annotated[float, Interval(ge=0, le=10)]
Exponent = Annotated[float, Interval(gt=0, le=50)]
NoiseLevel = Annotated[float, Interval(ge=0, le=10)]
Seconds = Annotated[float, Interval(gt=0, le=86_400)]
Wait = Annotated[float, Interval(ge=0, le=86_400)]
Milliseconds = Annotated[float, Interval(ge=0, le=60_000)]
Megabytes = Annotated[float, Interval(gt=0, le=1e6)]
Minutes = Annotated[float, Interval(ge=0, le=100_000)]
WaitMinutes = Annotated[float, Interval(ge=0.1, le=10_000)]

RANGE_WORDS = {"gt": "greater than", "ge": "at least", "lt": "below", "le": "at most"}
_HOLDS = {"gt": lambda v, end: v > end, "ge": lambda v, end: v >= end, "lt": lambda v, end: v < end,
          "le": lambda v, end: v <= end}


def intervals(hint: Any) -> Iterator[Interval]:
    """The ranges in a type, in its alternatives and in its parts."""
    for each in getattr(hint, "__metadata__", ()):
        if isinstance(each, Interval):
            yield each
    for part in get_args(hint):
        yield from intervals(part)


def allows(hint: Any, value: float) -> bool:
    """Whether a number lies in the range of a type."""
    return all(_inside(value, interval) for interval in intervals(hint))


def range_in_words(interval: Interval) -> str:
    """'greater than 0 and at most 1'."""
    return " and ".join(f"{words} {getattr(interval, end)}" for end, words in RANGE_WORDS.items()
                        if getattr(interval, end) is not None)


class Ranged:
    """Base of dataclasses of settings: ValueError names the number that is out of its range."""

    def __post_init__(self):
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            found = list(intervals(hint))
            given = getattr(self, name, None) if found else None  # some others are known only once they are asked
            for value in given.values() if isinstance(given, dict) else [given]:
                if isinstance(value, int | float) and not isinstance(value, bool):
                    for interval in found:
                        if not _inside(value, interval):
                            raise ValueError(f"{name} must be {range_in_words(interval)}, got {value}")


def _inside(value: float, interval: Interval) -> bool:
    return math.isfinite(value) and all(holds(value, getattr(interval, end)) for end, holds in _HOLDS.items()
                                        if getattr(interval, end) is not None)
