"""Judges of edits: a vision-language model sees the source images, the result, the instruction, and what to look for.

As in Edit-R1 (PKU-YuanGroup) a mark is the mean of 0 to 5 under the probabilities of the answer's one token, divided by
5; the questions are our own.
"""

from dataclasses import dataclass, field

from visalign.media.samples import Sample
from visalign.rewards.vlm.forms import Form
from visalign.rewards.vlm.generic import WINNER, VlmComparison, VlmJudge, images_named, mean_choice
from visalign.rewards.vlm.questions import Question, Reply

EDIT_PRINCIPLES = {
    "instruction": "Does the result show all that the instruction asks for, done fully and in the right place?",
    "consistency": "Is everything that the instruction does not speak of as in the source: people, objects, text, "
                   "style, light and composition; and is the result free of faults? A result that is the same as the "
                   "source, though the instruction asks for a change, gets 0.",
}
EDIT_RUBRIC = "0 not at all, 1 hardly, 2 partly, 3 mostly, 4 almost fully, 5 fully"
EDIT_SCORE = Form("score", (0, 1, 2, 3, 4, 5), between=True)


def task_of(sample: Sample) -> str:
    """The instruction of an edit, and what its data asks to look for."""
    requirement = sample.known.get("requirement")
    return f"The instruction:\n{sample.prompt}\n" + (f"What to look for:\n{requirement}\n" if requirement else "")


def sources_named(sample: Sample) -> str:
    count = len(sample.sources)
    return "First the source image is shown" if count == 1 else f"First {count} source images are shown"


@dataclass
class VlmEdit(VlmJudge):
    """Mark in [0, 1] per principle for an edit by any vision-language model, which sees source, result and instruction.

    The column `requirement` of the prompt's row, where there is one, tells it what to look for.
    """

    principles: dict[str, str] = field(default_factory=lambda: dict(EDIT_PRINCIPLES))
    rubric: str = EDIT_RUBRIC

    needs_sources = True
    score_range = (0.0, 1.0)

    def question(self, sample: Sample, principle: str) -> Question:
        images = self.images(sample)
        return Question(f"You judge an edit. {sources_named(sample)}, then the result, {images_named(len(images))}.\n"
                        f"{task_of(sample)}\n{principle}\nGive the result a mark ({self.rubric}).",
                        sample.sources + images, EDIT_SCORE)

    def read(self, answer: Reply) -> float:
        return mean_choice(answer, EDIT_SCORE, {str(choice): float(choice) for choice in EDIT_SCORE.choices}) / 5


@dataclass
class VlmEditComparison(VlmComparison):
    """Which of two edits of one source is better, by any vision-language model, asked in both orders: win rate."""

    principle: str = " ".join(EDIT_PRINCIPLES.values())

    needs_sources = True

    def question(self, first: Sample, second: Sample) -> Question:
        one, two = self.images(first), self.images(second)
        return Question(f"You compare two edits. {sources_named(first)}, then result 1, {images_named(len(one))}, then "
                        f"result 2, {images_named(len(two))}.\n{task_of(first)}\n{self.principle}\nWhich result is "
                        "better: 1, 2, or 0 if they are equally good?", first.sources + one + two, WINNER)
