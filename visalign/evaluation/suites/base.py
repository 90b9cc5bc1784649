"""What scores a suite: one sample at a time, then the suite's own table, with intervals over prompts."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError
from visalign.evaluators.statistics import Estimate, over_prompts
from visalign.media.samples import Sample
from visalign.storage.hub_files import hub_file, hub_reason


@dataclass(frozen=True)
class SuiteFigure:
    """A line of a suite's table: value in the suite's own unit, of so many images (or questions). headline: whether it
    is the suite's score."""

    name: str
    value: Estimate
    count: int
    headline: bool = False


@dataclass
class SuiteScorer(ABC):
    """A dataclass whose fields are its settings. path: of the suite's file or folder. modality: of what it scores;
    frames: of a video that it looks at, at most.

    A subclass writes `score`, what one sample of a prompt is worth, as numbers or None where that cannot be said; and
    `figures`, the suite's table.
    """

    path: str = ""
    device: str = "cpu"

    modality: ClassVar[str] = "image"
    frames: ClassVar[int] = 1

    def check(self, items: list[SuitePrompt]) -> None:  # noqa: B027  a scorer that needs nothing has nothing to check
        """Raise UserError when something is missing, before anything is loaded."""

    def used(self, items: list[SuitePrompt]) -> list[SuitePrompt]:
        """The suite's prompts that this scorer scores."""
        return items

    @abstractmethod
    def score(self, item: SuitePrompt, sample: Sample) -> Any:
        """What one sample is worth. Raises UserError where it cannot be scored."""

    @abstractmethod
    def figures(self, items: list[SuitePrompt], scored: list[list[Any]]) -> list[SuiteFigure]:
        """The table, from what `score` gave for every sample of each prompt; prompts without a sample are left out."""


def mean_figure(name: str, per_prompt: list[list[float]], headline: bool = False) -> SuiteFigure:
    """The mean over all samples, as the suites take it, with a bootstrap over prompts."""
    sums, counts = np.array([sum(each) for each in per_prompt]), np.array([len(each) for each in per_prompt])
    return SuiteFigure(name, over_prompts(lambda rows: sums[rows].sum() / counts[rows].sum(), len(sums)),
                       int(counts.sum()), headline)


def mean_of_groups(name: str, groups: list[str], per_prompt: list[list[float]]) -> SuiteFigure:
    """The mean of the groups' means, each over its samples, as the headline; prompts are resampled within groups."""
    known = list(dict.fromkeys(groups))
    label = np.array([known.index(group) for group in groups])
    sums, counts = np.array([sum(each) for each in per_prompt]), np.array([len(each) for each in per_prompt])
    rows_of = [np.flatnonzero(label == g) for g in range(len(known))]
    rng = np.random.default_rng(0)

    def mean(draw: Callable[[np.ndarray], np.ndarray]) -> float:
        return float(np.mean([sums[rows].sum() / counts[rows].sum() for rows in map(draw, rows_of)]))

    value = mean(lambda rows: rows)
    if len(sums) == len(known):  # a single prompt of each group tells nothing of their spread
        return SuiteFigure(name, Estimate(value, float("-inf"), float("inf")), int(counts.sum()), True)
    drawn = [mean(lambda rows: rows[rng.integers(0, len(rows), len(rows))]) for _ in range(1000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return SuiteFigure(name, Estimate(value, float(low), float(high)), int(counts.sum()), True)


def check_model_is_there(source: str, where: str) -> None:
    """Raise UserError naming the model to fetch, when neither a folder here nor the hub's cache nor the hub has it."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{where}: {source} has no config.json; name the folder of a transformers model")
        return
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"{where}: {source} is neither a folder nor a hub id such as facebook/detr-resnet-50")
    try:
        hub_file(source, "config.json")
    except Exception as error:  # the hub raises many kinds; all mean the same to a person
        raise UserError(f"{where}: the model {source} is not here, and the hub did not give it ({hub_reason(error)}); "
                        f"fetch it with `hf download {source}`, or name another") from error
