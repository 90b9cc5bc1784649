"""UnifiedReward and UnifiedReward-Flex (Wang et al. 2025): fine-tuned judges, served by vLLM or SGLang.

They were tuned on their authors' own instructions. The texts below are our own and ask for the same forms of answer;
put the published ones into a file and name it as `template` (with {prompt}) for the published numbers.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import Scores
from visalign.rewards.vlm.asking import AskingJudge, ComparingJudge, check_template
from visalign.rewards.vlm.forms import LONGEST_LINE, form_shown, number_in, object_in, without_thoughts
from visalign.rewards.vlm.generic import table
from visalign.rewards.vlm.questions import Question, Reply
from visalign.storage.text_files import read_text
from visalign.validation.ranges import AnswerTokens

POINT_V1 = ("Rate how well what is shown fits this text caption and how well it is made, as a number from 1 to 5.\n"
            "Caption: {prompt}\nEnd your answer with a line of the form: Final Score: x")
POINT_V2 = ("Rate what is shown for this text caption on three scales from 1 to 5: alignment with the caption, "
            "coherence (logical and physical consistency), and style (visual appeal).\nCaption: {prompt}\n"
            "Answer in three lines:\nAlignment Score (1-5): x\nCoherence Score (1-5): y\nStyle Score (1-5): z")
PAIR = ("Compare the two generations for this text caption and say which one is better overall.\nCaption: {prompt}\n"
        "End your answer with: Image 1 is better than Image 2, or: Image 2 is better than Image 1.")
FLEX = ("Compare Image 1 and Image 2 for this prompt. Choose the categories and sub-dimensions that matter for it; in "
        "each sub-dimension share 10 points between the two.\nPrompt: {prompt}\nAnswer in JSON: {\"categories\": "
        "[{\"name\": ..., \"dimensions\": [{\"name\": ..., \"score_1\": x, \"score_2\": 10 - x}], \"cat_winner\": "
        "\"Image 1\" or \"Image 2\"}], \"winner\": \"Image 1\" or \"Image 2\"}")


def labelled_score(text: str, label: str) -> float:
    """The number on the last line that begins with `label`, or on the next where that line ends with the colon.

    Raises ValueError when it is missing, is more than a number, or is not from 1 to 5.
    """
    lines = [line.strip("*_`#>- \t") for line in text.splitlines() if line.strip()]
    found = None
    for i, line in enumerate(lines):
        said = re.match(rf"{label}[^:]{{0,40}}:(.*)", line[:LONGEST_LINE], flags=re.IGNORECASE)
        if said:
            found = said[1] if said[1].strip("* ") or i + 1 == len(lines) else lines[i + 1]
    if found is None:
        raise ValueError(f"the answer has no '{label}': {form_shown(text)}")
    try:
        return number_in(found.strip(), 1, 5)
    except ValueError as error:
        raise ValueError(f"'{label}': {error}") from None


def better_one(text: str) -> float:
    """1 when the last sentence says that the first is better, 0 when the second is, 0.5 when both are equally good.

    Raises ValueError when it says nothing of the kind, or hedges it.
    """
    said = re.split(r"(?<=[.:!?])\s+|\n", re.sub(r"[*_`]", "", text[-LONGEST_LINE:]).strip())[-1]
    opening = r"(?:(?:overall|therefore|thus|so|hence|in conclusion),?\s+)?"
    found = re.fullmatch(rf"{opening}(?:image|video)\s*([12])\s+is\s+better(?:\s+than\s+(?:image|video)\s*([12]))?"
                         r"(?:\s+overall)?\s*[.!]?", said, flags=re.IGNORECASE)
    if found and found[1] != found[2]:
        return 1.0 if found[1] == "1" else 0.0
    if re.fullmatch(rf"{opening}both\s+(?:images|videos)\s+are\s+equally\s+good\s*[.!]?", said, flags=re.IGNORECASE):
        return 0.5
    raise ValueError(f"the answer does not end by saying of either that it is better: {form_shown(text)}")


def winner_of(name: Any) -> float:
    """1 for Image 1 (or Video 1), 0 for 2. Raises ValueError for anything else."""
    said = re.fullmatch(r"(?:image|video)?\s*([12])\.?", str(name)[:LONGEST_LINE].strip(), flags=re.IGNORECASE)
    if not said:
        raise ValueError(f"the winner is {str(name)[:40]!r}, neither Image 1 nor Image 2")
    return 1.0 if said[1] == "1" else 0.0


def read_flex(text: str) -> float:
    """1 when Image 1 wins, 0 when Image 2 does, from a Flex answer.

    Raises ValueError unless it is JSON whose sub-dimensions share 10 points each and which names a winner.
    """
    said = object_in(text)
    if "winner" not in said:
        raise ValueError("the answer's JSON names no winner")
    nodes: list[Any] = [said]
    while nodes:
        node = nodes.pop()
        nodes += node if isinstance(node, list) else node.values() if isinstance(node, dict) else ()
        if isinstance(node, dict):
            scores = [v for k, v in node.items() if "score" in k.lower() and isinstance(v, int | float)]
            if len(scores) == 2 and not abs(sum(scores) - 10) <= 1e-6:
                raise ValueError(f"a sub-dimension's two scores add to {sum(scores):g}, not 10")
            if "cat_winner" in node:
                winner_of(node["cat_winner"])
    return winner_of(said["winner"])


class Templated:
    """Reads `template` (a file) or takes the text given."""

    template: str | None
    name: str

    def template_text(self, default: str) -> str:
        if not self.template:
            return default
        path = Path(self.template).expanduser()
        if not path.is_file():
            raise UserError(f"reward {self.name}: there is no template file {path}")
        where = f"reward {self.name}: {path}"
        return check_template(read_text(path, where), where, ("{prompt}",))


@dataclass
class UnifiedReward(Templated, AskingJudge):
    """UnifiedReward, pointwise: `Final Score` from 1 to 5, or (version 2) alignment, coherence and style."""

    version: Literal[1, 2] = 2
    template: str | None = None
    logprobs: bool = False

    score_range = (1.0, 5.0)

    def __post_init__(self):
        super().__post_init__()
        self.dimensions = ("score",) if self.version == 1 else ("alignment", "coherence", "style")

    def check(self) -> None:
        self.template_text("")
        super().check()

    def read(self, answer: Reply) -> list[float]:
        text = without_thoughts(answer.text)
        labels = ("Final Score",) if self.version == 1 else ("Alignment", "Coherence", "Style")
        return [labelled_score(text, label) for label in labels]

    def score_batch(self, samples: list[Sample]) -> Scores:
        text = self.template_text(POINT_V1 if self.version == 1 else POINT_V2)
        read = self.read_noted([Question(text.replace("{prompt}", s.prompt), self.images(s)) for s in samples],
                               self.read)
        flat = [(one, note) for each, note in read
                for one in (each if isinstance(each, list) else [each] * len(self.dimensions))]
        return table(flat, len(self.dimensions))


@dataclass
class UnifiedRewardPairs(Templated, ComparingJudge):
    """UnifiedReward, pairwise in both orders: win rate within the prompt."""

    template: str | None = None
    logprobs: bool = False

    def question(self, first: Sample, second: Sample) -> Question:
        text = self.template_text(PAIR).replace("{prompt}", first.prompt)
        return Question(text, self.images(first) + self.images(second))

    def check(self) -> None:
        self.template_text("")
        super().check()

    def read(self, answer: Reply) -> float:
        return better_one(without_thoughts(answer.text))


@dataclass
class UnifiedRewardFlex(UnifiedRewardPairs):
    """UnifiedReward-Flex, pairwise with criteria of its own choice, answered in JSON: win rate within the prompt."""

    max_tokens: AnswerTokens = 4096

    def question(self, first: Sample, second: Sample) -> Question:
        text = self.template_text(FLEX).replace("{prompt}", first.prompt)
        return Question(text, self.images(first) + self.images(second))

    def read(self, answer: Reply) -> float:
        return read_flex(answer.text)
