"""DPG-Bench (Hu et al. 2024, ELLA): how many of a long prompt's statements does an image bear out?

Every statement is a question for a vision-language model, 1 for yes and 0 for no; one that depends on another is 0
where that is 0. An image's score is the mean over its prompt's questions, a prompt's that over its images, and the
suite's that over prompts, times 100. Beside it, by category, the answers themselves, dependencies aside.

Differs from the published script in: the model that answers is any `vlm`, theirs is mPLUG-large; their script leaves
out the table's first question; and categories count all images, theirs the last one of each prompt. """

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from visalign.data.suites import SuitePrompt
from visalign.errors import UserError
from visalign.evaluation.suites.base import SuiteFigure, SuiteScorer, mean_figure
from visalign.evaluators.statistics import over_prompts
from visalign.media.samples import Sample
from visalign.rewards.pairwise import Failure
from visalign.rewards.registry import build_reward
from visalign.rewards.vlm.forms import Form
from visalign.rewards.vlm.generic import VlmJudge
from visalign.rewards.vlm.questions import Question, Reply
from visalign.storage.text_files import read_text

YES_OR_NO = Form("answer", (0, 1))
DPG_TABLE = "dpg_bench.csv"
DPG_COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")


class Statement(NamedTuple):
    """A question about a prompt: its number there, those it depends on, its category (`entity - whole`), and words."""

    number: int
    parents: tuple[int, ...]
    category: str
    question: str


@dataclass
class DpgBench(SuiteScorer):
    """vqa: a `vlm` reward, whose model answers: vlm:http://HOST:8000/v1, vlm:FOLDER or a YAML file. questions: the
    suite's dpg_bench.csv; by default the one in the prompts' folder or the folder above."""

    vqa: str = ""
    questions: str = ""

    def check(self, items: list[SuitePrompt]) -> None:
        for item in items:
            if item.key not in self.statements:
                raise UserError(f"bench dpg-bench: {self._table()} has no question on the prompt {item.key}")
        self.model.check()

    @cached_property
    def model(self) -> VlmJudge:
        if not self.vqa:
            raise UserError("bench dpg-bench: name the model that answers, as --with vqa=vlm:http://HOST:8000/v1 or "
                            "--with vqa=vlm:FOLDER")
        built = build_reward(self.vqa, self.device)
        if not isinstance(built, VlmJudge):
            raise UserError(f"bench dpg-bench: vqa is {self.vqa}; expected a `vlm` reward, which answers questions")
        return built

    def _table(self) -> Path:
        folder = Path(self.path).expanduser()
        own = Path(self.questions).expanduser()
        found = [own] if self.questions else [folder / DPG_TABLE, folder.parent / DPG_TABLE]
        table = next((file for file in found if file.is_file()), None)
        if table is None:
            raise UserError(f"bench dpg-bench: {' and '.join(map(str, found))}: no such file; name the suite's "
                            f"{DPG_TABLE} as --with questions=FILE")
        return table

    @cached_property
    def statements(self) -> dict[str, list[Statement]]:
        return read_statements(self._table())

    def score(self, item: SuitePrompt, sample: Sample) -> dict[int, int]:
        """The answer to each question, 1 or 0, by its number. Raises UserError where one is not answered."""
        asked = self.statements[item.key]
        noted = self.model.read_noted([Question(f"{each.question}\nLook at the image: answer 1 for yes, 0 for no.",
                                                (sample.image,), YES_OR_NO) for each in asked], read_yes)
        for each, (said, _) in zip(asked, noted, strict=True):
            if isinstance(said, Failure):
                raise UserError(f"the question '{each.question}' was not answered: {said.reason}")
        return {each.number: said for each, (said, _) in zip(asked, noted, strict=True)}

    def figures(self, items: list[SuitePrompt], scored: list[list[dict[int, int]]]) -> list[SuiteFigure]:
        per_prompt, by_category = [], {}
        for i, (item, images) in enumerate(zip(items, scored, strict=True)):
            asked = self.statements[item.key]
            per_prompt.append(float(np.mean([sum(with_parents(asked, said).values()) / len(asked) for said in images])))
            for each in asked:
                for level in dict.fromkeys((each.category.split("-")[0].strip(), each.category)):
                    by_category.setdefault(level, {}).setdefault(i, []).extend(100 * said[each.number]
                                                                               for said in images)
        values = np.array(per_prompt)
        score = over_prompts(lambda rows: 100 * values[rows].mean(), len(values))
        return [*(mean_figure(name, list(found.values())) for name, found in sorted(by_category.items())),
                SuiteFigure("DPG-Bench score", score, sum(map(len, scored)), True)]


def with_parents(statements: list[Statement], said: dict[int, int]) -> dict[int, int]:
    """Answers with 0 where a statement that it depends on is 0, that one's own dependencies included, in the table's
    order."""
    kept = dict(said)
    for each in statements:
        if any(kept[parent] == 0 for parent in each.parents):
            kept[each.number] = 0
    return kept


def read_yes(answer: Reply) -> int:
    """1 or 0. Raises ValueError for an answer in another form."""
    return int(YES_OR_NO.read(answer.text))


def read_statements(file: Path) -> dict[str, list[Statement]]:
    """Questions by prompt, from the suite's table. Raises UserError naming the row that is wrong."""
    rows = csv.DictReader(io.StringIO(read_text(file, f"bench dpg-bench: {file}")))
    missing = [name for name in DPG_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise UserError(f"bench dpg-bench: {file} has no column {missing[0]}")
    found: dict[str, list[Statement]] = {}
    for number, row in enumerate(rows, 2):
        where = f"bench dpg-bench: {file}: line {number}"
        try:
            parents = tuple(parent for each in row["dependency"].split(",") if (parent := int(each)) != 0)
            statement = Statement(int(row["proposition_id"]), parents, row["tuple"].split("(")[0].strip(),
                                  row["question_natural_language"].strip())
        except (ValueError, AttributeError):
            raise UserError(f"{where}: proposition_id and dependency must be whole numbers") from None
        found.setdefault(row["item_id"], []).append(statement)
    for item, statements in found.items():
        known = {each.number for each in statements}
        for each in statements:
            if strange := set(each.parents) - known:
                raise UserError(f"bench dpg-bench: {file}: question {each.number} of {item} depends on {min(strange)}, "
                                "which is none of its questions")
    return found
