"""A judge by any vision-language model: the principles and the rubric are settings (SALMON, Sun et al. 2023)."""

import re
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visalign.media import Sample
from visalign.rewards.base import Scores
from visalign.rewards.vlm.asking import AskingJudge, ComparingJudge
from visalign.rewards.vlm.questions import Answer, Failure, Question

PRINCIPLES = {
    "alignment": "Does it show what the prompt asks for: every object, count, colour, place and action?",
    "quality": "Is it free of faults: blur, noise, broken shapes, missing parts, flicker?",
    "aesthetics": "Is it pleasing to look at: composition, colour, light?",
    "motion": "Does it move smoothly and as such a thing moves?",
}
RUBRIC = "1 very bad, 2 bad, 3 fair, 4 good, 5 very good"


def shown(count: int) -> str:
    return "the picture" if count == 1 else f"the clip, given as {count} frames in order of time,"


def expected_digit(answer: Answer) -> float:
    """Mean of 1..5 under the answer's own probabilities, else the first digit it says.

    Raises ValueError when there is neither.
    """
    chances = {int(d): p for d, p in (answer.digits or {}).items() if d in "12345"}
    if sum(chances.values()) > 0.5:  # else the model was about to say something else
        return sum(d * p for d, p in chances.items()) / sum(chances.values())
    said = re.search(r"(?<![\d.])([1-5](?:\.\d+)?)(?![\d.]*\d)", answer.text)
    if not said or float(said[1]) > 5:
        raise ValueError(f"the answer holds no score from 1 to 5: {answer.text[:80]!r}")
    return float(said[1])


@dataclass
class VlmJudge(AskingJudge):
    """Score from 1 to 5 per principle by any vision-language model, the mean under its own digit probabilities.

    principles: question by dimension. rubric: what the digits mean.
    """

    principles: dict[str, str] = field(default_factory=lambda: {k: PRINCIPLES[k] for k in ("alignment", "quality")})
    rubric: str = RUBRIC

    score_range = (1.0, 5.0)

    def __post_init__(self):
        super().__post_init__()
        if not self.principles:
            raise ValueError("principles is empty; name at least one dimension and its question")
        self.dimensions = tuple(self.principles)

    def question(self, sample: Sample, principle: str) -> Question:
        pictures = self.pictures(sample)
        return Question(f"You judge {shown(len(pictures))} that was made for this prompt:\n{sample.prompt}\n\n"
                        f"{principle}\nAnswer with one digit and nothing else ({self.rubric}).", pictures)

    def judge(self, samples: list[Sample]) -> Scores:
        questions = [self.question(sample, principle) for sample in samples for principle in self.principles.values()]
        read = self.read_all(questions, expected_digit)
        return table(read, len(self.dimensions))


def table(read: list, dimensions: int) -> Scores:
    """Scores from outcomes in rows of `dimensions`; failures become NaN with their reason."""
    values: Tensor = torch.tensor([float("nan") if isinstance(r, Failure) else r for r in read]).view(-1, dimensions)
    remarks = {i // dimensions: r.reason for i, r in reversed(list(enumerate(read))) if isinstance(r, Failure)}
    return Scores(values, remarks)


@dataclass
class VlmComparison(ComparingJudge):
    """Which of two is better, by any vision-language model, asked in both orders: win rate within the prompt."""

    principle: str = " ".join(PRINCIPLES[k] for k in ("alignment", "quality"))

    def question(self, first: Sample, second: Sample) -> Question:
        one, two = self.pictures(first), self.pictures(second)
        return Question(f"Two answers to one prompt are shown: first {shown(len(one))} 1, then {shown(len(two))} 2. "
                        f"The prompt:\n{first.prompt}\n\n{self.principle}\nWhich is better? Answer with 1, 2, or 0 if "
                        "they are equally good, and nothing else.", one + two)

    def read(self, answer: Answer) -> float:
        chances = {d: p for d, p in (answer.digits or {}).items() if d in "012"}
        if sum(chances.values()) > 0.5:
            return (chances.get("1", 0.0) + 0.5 * chances.get("0", 0.0)) / sum(chances.values())
        said = re.search(r"(?<![\d.])([012])(?![\d.]*\d)", answer.text)
        if not said:
            raise ValueError(f"the answer says neither 1 nor 2: {answer.text[:80]!r}")
        return {"1": 1.0, "2": 0.0, "0": 0.5}[said[1]]
