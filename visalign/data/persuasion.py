"""Questions with a right and a wrong answer, and the dialogues in which somebody argues for one of them (PBT, arXiv
2410.14596, by its abstract alone).

    question, right, wrong             text; right and wrong also lists of ways to say it, the first of which is written
    argument_right, argument_wrong     optional: what a persuader adds for either
    answer                             optional: the first answer that was given

An answer states the right one where it holds a way to say it as whole words, and none of the wrong one's; one that
holds both, or none, states neither.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from visalign.config.language_feedback import PersuasionSettings
from visalign.data.capitals import capital_rows
from visalign.data.rows import BadRow, check_row, plain_names, row_prompt, table_rows
from visalign.errors import UserError, nearest
from visalign.media.conversations import Message
from visalign.media.words import whole_words

_COLUMNS = frozenset(("question", "right", "wrong", "argument_right", "argument_wrong", "answer"))


@dataclass(frozen=True)
class DisputedQuestion:
    """A question, ways to say its right and its wrong answer, what a persuader adds for either, and the first answer,
    where one was given. number: its place in the table."""

    question: str
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    where: str
    number: int = 0
    argument_right: str = ""
    argument_wrong: str = ""
    answer: str | None = None

    def states_right(self, reply: str) -> bool | None:
        """Whether a reply states the right answer: True, False where it states the wrong one, None for neither."""
        right, wrong = states(reply, self.right), states(reply, self.wrong)
        return right if right != wrong else None

    def first_answer(self, right: bool, settings: PersuasionSettings) -> str:
        """A first answer by the templates; the template goes with the question, whichever answer is given."""
        return self._said(settings.answers, right)

    def dialogue(self, answer: str, good: bool, settings: PersuasionSettings) -> "PersuadingDialogue":
        """The question, an answer, and a turn that argues for the right answer (good) or for the wrong one."""
        argument = self._said(settings.arguments, good)
        more = self.argument_right if good else self.argument_wrong
        return PersuadingDialogue(self, good, (
            {"role": "user", "content": self.question}, {"role": "assistant", "content": answer},
            {"role": "user", "content": f"{argument} {more}".strip()}))

    def given_dialogues(self, settings: PersuasionSettings) -> list["PersuadingDialogue"]:
        """Both, with first answers by the templates: the right one attacked, the wrong one corrected."""
        return [self.dialogue(self.first_answer(not good, settings), good, settings) for good in (True, False)]

    def _said(self, templates: Sequence[str], right: bool) -> str:
        answer = (self.right if right else self.wrong)[0]
        return templates[self.number % len(templates)].format(answer=answer, question=self.question)


@dataclass(frozen=True)
class PersuadingDialogue:
    """A conversation up to the reply. good: whether its last turn argues for the right answer."""

    question: DisputedQuestion
    good: bool
    messages: tuple[Message, ...]


def states(text: str, ways: Sequence[str]) -> bool:
    """Whether a text holds one of the ways to say an answer, as whole words in any case."""
    return any(whole_words(each).search(text) for each in ways)


def read_disputed(settings: PersuasionSettings, on_bad: Callable[[UserError], None] | None = None
                  ) -> list[DisputedQuestion]:
    """All questions of the table. on_bad: told of a row that cannot be used, in place of ending there. Raises UserError
    where there is none."""
    found: list[DisputedQuestion] = []
    for where, row in disputed_rows(settings):
        try:
            found.append(disputed_of_row(row, where, len(found)))
        except BadRow as error:
            if on_bad is None:
                raise
            on_bad(error)
        if settings.max_questions and len(found) == settings.max_questions:
            break
    if not found:
        raise UserError(f"data.persuasion.path {settings.path}: holds no usable question")
    return found


def disputed_rows(settings: PersuasionSettings) -> Iterable[tuple[str, dict]]:
    """Where each row is, and the row; of a table, a folder of them, or the capitals."""
    if settings.path == "capitals":
        return [(f"capitals row {i}", row) for i, row in enumerate(capital_rows(), 1)]
    return table_rows(settings.path, settings.split)


def disputed_of_row(row: dict, where: str, number: int = 0) -> DisputedQuestion:
    """Raises BadRow naming the row and the key."""
    check_row(row)
    row = plain_names(row, _COLUMNS)
    question = row_prompt(row, "question", where)
    right, wrong = (_ways(row, key, where) for key in ("right", "wrong"))
    if any(states(each, others) for ways, others in ((right, wrong), (wrong, right)) for each in ways):
        raise BadRow(f"{where}: 'right' and 'wrong' hold one another, so no reply could state one alone")
    texts = {key: _optional(row, key, where) for key in ("argument_right", "argument_wrong", "answer")}
    return DisputedQuestion(question, right, wrong, where, number, texts["argument_right"] or "",
                            texts["argument_wrong"] or "", texts["answer"])


def _ways(row: dict, key: str, where: str) -> tuple[str, ...]:
    given: Any = row.get(key)
    if given is None:
        raise BadRow(f"{where}: '{key}' {'is null' if key in row else f'is missing{nearest(key, row)}'}")
    ways = given if isinstance(given, list) else [given]
    if not ways or not all(isinstance(each, str) and each.strip() for each in ways):
        raise BadRow(f"{where}: '{key}' must be text, or a list of ways to say it")
    return tuple(each.strip() for each in ways)


def _optional(row: dict, key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRow(f"{where}: '{key}' is not text but {type(value).__name__}")
    return value or None
