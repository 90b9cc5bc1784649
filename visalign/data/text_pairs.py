"""Preference pairs of text, and texts to imitate, read from tables.

    pairs      prompt, chosen, rejected; each text, or a list of messages {role, content}. chosen and rejected may be
               whole conversations: what they have in common is the prompt then, and no column prompt is needed.
    answers    prompt and completion (or chosen, answer, response); or messages, whose last is the assistant's
    labels     prompt, an answer as above, and label: whether it is a good one
    optional   strength, chance, chosen_reward, rejected_reward, image or images, and any columns of numbers that a
               method names (NAME of a reward as chosen.NAME and rejected.NAME)
    parts      prefix: the beginning of an answer that both sides continue; unfinished: list of the sides (chosen,
               rejected) whose answer goes on, and shall not learn to end there

Messages have the roles system, user and assistant and text as content.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visalign.config import TextDataSettings
from visalign.data.preferences import hub_rows
from visalign.data.rows import (
    BadRow,
    check_row,
    find_file,
    media_reference,
    plain_names,
    row_chance,
    row_number,
    row_strength,
    says_yes,
    shortened,
    table_rows,
)
from visalign.data.sources import default_root, local_path
from visalign.errors import UserError, nearest, notice
from visalign.media.conversations import Message
from visalign.media.kinds import is_image_name, is_video_name

ROLES = ("system", "user", "assistant")
ANSWER_COLUMNS = ("chosen", "completion", "answer", "response", "output")
IMAGE_COLUMNS = ("image", "images")
_SIDES = ("chosen", "rejected")
_KNOWN = frozenset(("prompt", "rejected", "messages", "prefix", "unfinished", *ANSWER_COLUMNS, *IMAGE_COLUMNS))
MOST_EMPTY = 0.05
"""Share of pairs whose chosen answer is empty, above which a set is refused: they teach to say nothing."""


@dataclass(frozen=True)
class TextPair:
    """A conversation up to the answer, a chosen answer and a rejected one (None: only to imitate the chosen).

    unfinished: sides whose answer was cut before it ended. desirable: of a single answer, whether it is good. images:
    files or bytes that the prompt shows. numbers: further columns by name. where: file and row. group: what is held
    out, and resampled for intervals, as a whole, where that is not the prompt. prefix: the beginning of an answer that
    both sides continue; it is of the prompt, and nothing is learnt of it.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str | None
    where: str
    strength: float = 1.0
    chance: float = 1.0
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    desirable: bool | None = None
    unfinished: frozenset[str] = frozenset()
    images: tuple[Any, ...] = ()
    numbers: dict[str, float] = field(default_factory=dict)
    group: str | None = None
    prefix: str = field(default="", kw_only=True)

    def whole(self, part: str) -> str:
        """The answer up to the end of a side."""
        return self.prefix + part

    @property
    def prompt(self) -> str:
        """The last turn of the user."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


def as_messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    """A conversation: text is one turn of the user. Raises BadRow naming the message that is wrong."""
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"{where}: '{key}' is empty")
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        raise BadRow(f"{where}: '{key}' is {type(value).__name__} {shortened(value, 40)}; text or a list of messages "
                     "{role, content} is expected")
    return tuple(_message(each, key, i, where) for i, each in enumerate(value, 1))


def _message(each: Any, key: str, number: int, where: str) -> Message:
    if not isinstance(each, dict) or "role" not in each or "content" not in each:
        has = f"has {', '.join(each)}" if isinstance(each, dict) else f"is {type(each).__name__}"
        raise BadRow(f"{where}: message {number} of '{key}' {has}; role and content are expected")
    if each["role"] not in ROLES:
        raise BadRow(f"{where}: message {number} of '{key}' has the role {each['role']!r}"
                     f"{nearest(str(each['role']), ROLES)}")
    content = each["content"]
    if isinstance(content, list):  # parts, as vision-language models have them
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        raise BadRow(f"{where}: message {number} of '{key}' has {type(each['content']).__name__} as content, not text")
    return {"role": each["role"], "content": content}


def _side(row: dict, key: str, before: tuple[Message, ...] | None,
          where: str) -> tuple[tuple[Message, ...] | None, str]:
    """The conversation that a side brings along, None where it is the answer alone, and its answer."""
    value = row.get(key)
    if value is None:
        state = "is null" if key in row else f"is missing{nearest(key, row) if row else ''}"
        raise BadRow(f"{where}: '{key}' {state}")
    if isinstance(value, str):
        return None, value
    messages = as_messages(value, key, where)
    if messages[-1]["role"] != "assistant":
        raise BadRow(f"{where}: '{key}' ends with a turn of the {messages[-1]['role']}; the assistant's answer is "
                     "expected last")
    earlier = messages[:-1]
    if before is not None and earlier and earlier != before:
        raise BadRow(f"{where}: '{key}' begins with another conversation than 'prompt'")
    return earlier or None, messages[-1]["content"]


def pair_of_row(row: dict, where: str, compared: bool, root: Path) -> TextPair:
    """One row; compared: whether a rejected answer is needed. Raises BadRow naming the row, the key and what is
    expected."""
    check_row(row)
    row = plain_names(row, _KNOWN)
    prompt = as_messages(row["prompt"], "prompt", where) if row.get("prompt") is not None else None
    if prompt and prompt[-1]["role"] == "assistant":
        raise BadRow(f"{where}: 'prompt' ends with a turn of the assistant, which leaves nothing to answer")
    if compared:
        prompt, chosen, rejected = _two_sides(row, prompt, where)
    else:
        prompt, chosen = _one_side(row, prompt, where)
        rejected = None
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        raise BadRow(f"{where}: 'prompt' is empty; the user says nothing in it")
    desirable = says_yes(row, "label", where) if not compared and "label" in row else None
    rewards = {key: row_number(row, key, where) for key in ("chosen_reward", "rejected_reward")}
    return TextPair(prompt, chosen, rejected, where, row_strength(row, where), row_chance(row, where), **rewards,
                    desirable=desirable, images=_images(row, where, root), numbers=_numbers(row, where),
                    prefix=_prefix(row, where), unfinished=_unfinished(row, where))


def _prefix(row: dict, where: str) -> str:
    value = row.get("prefix")
    if value is not None and not isinstance(value, str):
        raise BadRow(f"{where}: 'prefix' is {type(value).__name__} {shortened(value, 40)}; the text is expected with "
                     "which the answers of both sides begin")
    return value or ""


def _unfinished(row: dict, where: str) -> frozenset[str]:
    value = row.get("unfinished")
    if value is not None and not (isinstance(value, list | tuple) and all(side in _SIDES for side in value)):
        raise BadRow(f"{where}: 'unfinished' is {shortened(value, 40)}; a list of the sides whose answer goes on is "
                     "expected: chosen, rejected")
    return frozenset(value or ())


def _two_sides(row: dict, prompt: tuple[Message, ...] | None, where: str) -> tuple[tuple[Message, ...], str, str]:
    before, chosen = _side(row, "chosen", prompt, where)
    other, rejected = _side(row, "rejected", prompt, where)
    if prompt is None and before is None:
        raise BadRow(f"{where}: 'prompt' is missing{nearest('prompt', row)}; without it chosen and rejected must be "
                     "whole conversations")
    if prompt is None and before != other:
        raise BadRow(f"{where}: chosen and rejected are conversations that part before their last turn, and there is "
                     "no 'prompt'")
    return prompt or before, chosen, rejected


def _one_side(row: dict, prompt: tuple[Message, ...] | None, where: str) -> tuple[tuple[Message, ...], str]:
    if row.get("messages") is not None:
        before, answer = _side(row, "messages", prompt, where)
    else:
        key = next((name for name in ANSWER_COLUMNS if row.get(name) is not None), None)
        if key is None:
            raise BadRow(f"{where}: has no answer to imitate (allowed: messages, {', '.join(ANSWER_COLUMNS)}; it has "
                         f"{shortened(', '.join(row)) or 'none'})")
        before, answer = _side(row, key, prompt, where)
    if prompt is None and before is None:
        raise BadRow(f"{where}: 'prompt' is missing{nearest('prompt', row)}")
    return prompt or before, answer


def _images(row: dict, where: str, root: Path) -> tuple[Any, ...]:
    values = next((row[name] for name in IMAGE_COLUMNS if row.get(name) is not None), [])
    values = values if isinstance(values, list) else [values]
    return tuple(media_reference(value, "images", where, root) for value in values)


def _numbers(row: dict, where: str) -> dict[str, float]:
    """Rewards by name, as `chosen.NAME` and `rejected.NAME`, and what else is a number."""
    taken = {"strength", "chance", "chosen_reward", "rejected_reward", "seed", "label"}
    return {name: row_number(row, name, where) for name, value in row.items() if name not in taken
            and isinstance(value, int | float) and not isinstance(value, bool)}


@dataclass
class TextCounts:
    """What was found while reading: usable pairs, pairs with equal answers (left out), pairs with an empty chosen
    answer, and rows without a prompt of their own."""

    usable: int = 0
    same: int = 0
    empty: int = 0
    without_prompt: int = 0

    def notes(self, named: str) -> list[str]:
        """A sentence for each thing to know."""
        total = self.usable + self.same
        found = [f"data {named}: in {self.same} of {total} pairs chosen and rejected are equal; they are left out"
                 ] * bool(self.same)
        found += [f"data {named}: the chosen answer of {self.empty} of {total} pairs is empty"] * bool(self.empty)
        return found + [f"data {named}: {self.without_prompt} rows have no prompt; what both conversations begin with "
                        "is taken"] * bool(self.without_prompt)


_NO_LANGUAGE = re.compile(r"[!-~]{200,}")
"""So many signs without a space between are an image in base64, or a path."""


def is_text_set(settings: TextDataSettings) -> bool:
    """Whether the first row of a set is of text: conversations, or answers that name no image and no video."""
    _, row = next(iter(_rows(settings)), ("", {}))
    row = plain_names(row, _KNOWN)
    value = next((row[name] for name in ("messages", *ANSWER_COLUMNS) if row.get(name) is not None), None)
    if isinstance(value, str):
        encoded = value.startswith("data:") or _NO_LANGUAGE.fullmatch(value) is not None
        return not (encoded or is_image_name(value) or is_video_name(value)
                    or find_file(value, [default_root(settings.path)]))
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "role" in value[0]


def has_pairs(settings: TextDataSettings) -> bool:
    """Whether the first row of a set has a rejected answer."""
    _, row = next(iter(_rows(settings)), ("", {}))
    return "rejected" in plain_names(row, _KNOWN)


def read_text_pairs(settings: TextDataSettings, compared: bool = True,
                    on_bad: Callable[[UserError], None] | None = None,
                    expand: Callable[[dict, str], list[dict]] = lambda row, where: [row]) -> list[TextPair]:
    """All usable pairs of a table, folder or hub id; those of which both answers are equal are left out and counted.

    on_bad: told of each row that cannot be used, in place of ending at the first. expand: the rows that one stands for.
    Raises UserError for what makes the set unusable: no pair, all equal, more than 5 % empty chosen answers.
    """
    counts, pairs, named = TextCounts(), [], settings.named
    for pair in _pairs(settings, compared, on_bad, counts, expand):
        if pair.rejected == pair.chosen and not pair.numbers.get("masked"):
            counts.same += 1
            continue
        counts.usable += 1
        counts.empty += not pair.whole(pair.chosen).strip()
        pairs.append(pair)
        if settings.max_pairs and len(pairs) == settings.max_pairs:
            break
    if not pairs:
        why = (f"chosen and rejected are equal in all {counts.same} pairs, so there is nothing to learn" if counts.same
               else "holds no usable row")
        raise UserError(f"data {named}: {why}")
    if counts.empty > MOST_EMPTY * len(pairs):
        raise UserError(f"data {named}: the chosen answer of {counts.empty} of {len(pairs)} pairs is empty, which "
                        f"teaches to say nothing (allowed: a share of {MOST_EMPTY:g}); remove such rows")
    for note in counts.notes(named):
        notice(note)
    return pairs


def _pairs(settings: TextDataSettings, compared: bool, on_bad: Callable[[UserError], None] | None,
           counts: TextCounts, expand: Callable[[dict, str], list[dict]]) -> Iterator[TextPair]:
    root = Path(settings.media_root).expanduser() if settings.media_root else default_root(settings.path)
    for where, row in _rows(settings):
        try:
            found = [pair_of_row(each, where, compared, root) for each in expand(row, where)]
        except BadRow as error:
            if on_bad is None:
                raise
            on_bad(error)
            continue
        counts.without_prompt += "prompt" not in row and "messages" not in row
        yield from found


def _rows(settings: TextDataSettings) -> Iterator[tuple[str, dict]]:
    source = settings.path
    on_hub = source.count("/") == 1 and not source.startswith((".", "/", "~")) and not local_path(source).suffix
    if on_hub and not local_path(source).exists():
        return hub_rows(source, settings.split)
    return table_rows(source, settings.split)
