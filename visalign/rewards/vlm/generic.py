"""A judge by any vision-language model: the principles and the rubric are settings (SALMON, Sun et al. 2023)."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.rewards.base import Scores
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.asking import ComparingJudge
from visalign.rewards.vlm.forms import Form
from visalign.rewards.vlm.questions import Question, Reply
from visalign.rewards.vlm.tools import ToldByTools, with_facts

PRINCIPLES = {
    "alignment": "Does it show what the prompt asks for: every object, count, colour, place and action?",
    "quality": "Is it free of faults: blur, noise, broken shapes, missing parts, flicker?",
    "aesthetics": "Is it pleasing to look at: composition, colour, light?",
    "motion": "Does it move smoothly and as such a thing moves?",
}
RUBRIC = "1 very bad, 2 bad, 3 fair, 4 good, 5 very good"
SCORE = Form("score", (1, 2, 3, 4, 5), between=True)
WINNER = Form("winner", (0, 1, 2))


def in_twos(questions: list[Question]) -> list[tuple[Question, Question]]:
    return list(zip(questions[::2], questions[1::2], strict=True))


def images_named(count: int) -> str:
    return "the image" if count == 1 else f"the video, given as {count} frames in order of time,"


def mean_choice(answer: Reply, form: Form, worth: dict[str, float]) -> float:
    """Mean worth of the choices under the answer's own probabilities, else the number that it says.

    worth: value by choice. Raises ValueError for an answer in another form.
    """
    said = form.read(answer.text)
    chances = answer.chances or {}
    total = sum(chances.values())
    if total > 0.5:  # else the model was about to say something else
        return sum(worth[choice] * p for choice, p in chances.items()) / total
    return worth.get(f"{said:g}", said)


@dataclass
class VlmJudge(ToldByTools):
    """Score from 1 to 5 per principle by any vision-language model, the mean under its own digit probabilities.

    principles: question by dimension. rubric: what the digits mean. tools: rewards whose findings it is told.
    """

    principles: dict[str, str] = field(default_factory=lambda: {k: PRINCIPLES[k] for k in ("alignment", "quality")})
    rubric: str = RUBRIC

    score_range = (1.0, 5.0)

    def __post_init__(self):
        super().__post_init__()
        if not self.principles:
            raise ValueError("principles is empty; name at least one dimension and its question")
        for name, principle in self.principles.items():
            if not name.strip() or not name.isprintable() or not principle.strip():
                raise ValueError(f"principles: {name!r} is {principle!r}; each is a name and its question")
        self.dimensions = tuple(self.principles)

    def question(self, sample: Sample, principle: str) -> Question:
        images = self.images(sample)
        return Question(f"You judge {images_named(len(images))} that was made for this prompt:\n{sample.prompt}\n\n"
                        f"{principle}\nGive it a mark ({self.rubric}).", images, SCORE)

    def read(self, answer: Reply) -> float:
        return mean_choice(answer, SCORE, {str(choice): float(choice) for choice in SCORE.choices})

    def score_batch(self, samples: list[Sample]) -> Scores:
        questions = [with_facts(self.question(sample, principle), facts)
                     for sample, facts in zip(samples, self.facts(samples), strict=True)
                     for principle in self.principles.values()]
        return table(self.read_noted(questions, self.read), len(self.dimensions))


def table(noted: list[tuple[float | Failure, str | None]], dimensions: int) -> Scores:
    """Scores from outcomes in rows of `dimensions`; failures become NaN with their reason, notes become remarks."""
    values: Tensor = torch.tensor([float("nan") if isinstance(r, Failure) else r for r, _ in noted])
    remarks: dict[int, str] = {}
    for i, (read, note) in enumerate(noted):
        if isinstance(read, Failure) or note:
            reason = read.reason if isinstance(read, Failure) else note
            remarks.setdefault(i // dimensions, reason)
    return Scores(values.view(-1, dimensions), remarks)


@dataclass
class VlmComparison(ToldByTools, ComparingJudge):
    """Which of two is better, by any vision-language model, asked in both orders: win rate within the prompt. tools:
    rewards whose findings on both it is told."""

    principle: str = " ".join(PRINCIPLES[k] for k in ("alignment", "quality"))

    def question(self, first: Sample, second: Sample) -> Question:
        one, two = self.images(first), self.images(second)
        return Question(f"Two answers to one prompt are shown: first {images_named(len(one))} 1, then "
                        f"{images_named(len(two))} 2. "
                        f"The prompt:\n{first.prompt}\n\n{self.principle}\nWhich is better: 1, 2, or 0 if they are "
                        "equally good?", one + two, WINNER)

    def questions(self, pairs: list[tuple[Sample, Sample]]) -> list[Question]:
        facts = [self.facts([pair[side] for pair in pairs]) for side in (0, 1)]
        return [with_facts(question, *order) for (there, back), one, two in zip(
            in_twos(super().questions(pairs)), *facts, strict=True)
                for question, order in ((there, (one, two)), (back, (two, one)))]

    def read(self, answer: Reply) -> float:
        return mean_choice(answer, WINNER, {"1": 1.0, "2": 0.0, "0": 0.5})
