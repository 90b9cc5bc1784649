"""Generations of language models: rows with a prompt and an answer.

    {"prompt": "...", "answer": "...", "seed": 3}      also response, completion or output for answer
    {"prompt": "...", "responses": ["...", "..."]}     several answers of one prompt
    reference                                          what a good answer says, for rewards that compare with it
    group                                              what tells prompts of the same words apart, such as their images
Both may be conversations, lists of {role, content}: of a prompt the last message of the user counts, of an answer the
last message.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visalign.data.entry import Entry
from visalign.data.metadata import seed_of
from visalign.media.answers import LONGEST_ANSWER, Answer
from visalign.media.samples import Sample
from visalign.media.source_images import group_of
from visalign.storage.files import write_atomically
from visalign.storage.text_files import normal_form, printable

ANSWER_KEYS = ("answer", "response", "completion", "output", "answers", "responses", "completions", "outputs")
ASKED_KEYS = ("prompt", "instruction", "question", "messages")


@dataclass(frozen=True)
class TextEntry(Entry):
    """An answer of a language model, of which `file` is only the table that it was in. told_apart: what tells its
    prompt from others of the same words. reference: what a good answer says."""

    content: str = field(default="", repr=False)
    told_apart: str = ""
    reference: str | None = None

    @property
    def group(self) -> str:
        return self.told_apart or self.prompt

    @property
    def kind(self) -> str:
        return "texts"

    def digest(self) -> str:
        return hashlib.sha256(self.content.encode()).hexdigest()

    def stamp(self) -> str:
        return self.digest()

    def modality(self) -> str:
        self.refuse_problem()
        return "text"

    def sample(self, frames: int = 64) -> Sample:
        """Raises UserError when it is not a text."""
        self.refuse_problem()
        return Sample(self.prompt, Answer(self.content), self.seed,
                      {} if self.reference is None else {"reference": self.reference})


def answer_key(row: dict) -> str | None:
    """The column in which a row has its answer, which may be empty; None of a row that is about files."""
    here = [key for key in ANSWER_KEYS if key in row]
    return next((key for key in here if row[key] is not None), here[0] if here else None)


def text_entries(where: str, row: dict, file: Path) -> Iterator[Entry]:
    """The answers of a row, each with its problem where it has one."""
    key = answer_key(row)
    given, asked = row[key], next((row[name] for name in ASKED_KEYS if row.get(name)), "")
    prompt, why = text_of_turns(asked, "user"), None
    if prompt is None:
        why = f"{where}: the prompt is neither text nor a list of messages with role and content"
    apart = row["group"] if isinstance(row.get("group"), str) else ""
    reference = text_of_turns(row.get("reference"), "assistant")
    several = isinstance(given, list) and not _is_conversation(given)
    for number, each in enumerate(given if several else [given]):
        name = printable(f"{where} {key} {number + 1}" if several else where)
        if isinstance(each, dict):  # UltraFeedback: {"response": ..., "model": ...}
            each = next((each[name] for name in ANSWER_KEYS if name in each), each)
        text = text_of_turns(each, "assistant")
        problem = why or problem_of(text, each, f"{where}: '{key}'")
        yield TextEntry(name, file, normal_form(printable(prompt or "")), seed_of(row.get("seed")),
                        printable(problem) if problem else None, content=(text or "") if not problem else "",
                        told_apart=apart, reference=reference)
    if several and not given:
        yield TextEntry(printable(where), file, normal_form(printable(prompt or "")),
                        problem=printable(f"{where}: '{key}' is an empty list"))


def problem_of(text: str | None, given: Any, where: str) -> str | None:
    """Why a value cannot be used as an answer, where it cannot."""
    if text is None:
        what = "missing" if given is None or given != given else f"not text but {type(given).__name__}"
        return f"{where} is {what}; an answer is text, or a list of messages with role and content"
    if len(text) > LONGEST_ANSWER:
        return f"{where} has {len(text):,} characters, more than the {LONGEST_ANSWER:,} that an answer may have"
    return None


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(
        isinstance(each, dict) and isinstance(each.get("content"), str) and isinstance(each.get("role"), str)
        for each in value)


def text_of_turns(value: Any, role: str) -> str | None:
    """A text as it is, or the last message of `role` in a conversation; None of anything else."""
    if isinstance(value, str):
        return value
    if not _is_conversation(value):
        return None
    return next((each["content"] for each in reversed(value) if each["role"] == role), None)


def write_answers(samples: list[Sample], folder: Path) -> Path:
    """samples.jsonl of texts, which every command reads: a row of prompt, answer and seed for each, and what tells
    prompts with images apart."""
    file = folder / "samples.jsonl"
    rows = [{"prompt": sample.prompt, "answer": str(sample.answer), "seed": sample.seed}
            | ({"group": group_of(sample)} if sample.sources else {}) for sample in samples]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    return file
