"""Annotations of texts: comparisons of two answers to one prompt.

    prompt, chosen, rejected                       the chosen one is preferred in the first dimension
    prompt, a, b, <dimension>: "a", "b" or "tie"   as of images and videos (annotations.py)
        optional, of both: strength, kind, user
Prompts and answers are texts, or conversations (text_generations.py).
"""

import hashlib
from dataclasses import dataclass

from visalign.data.annotations import AnnotatedMedia, Annotation, comparison_of
from visalign.data.rows import BadRow, check_row, row_strength, row_user, table_rows
from visalign.data.text_generations import problem_of, text_of_turns
from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.samples import Sample


@dataclass(frozen=True)
class AnnotatedText(AnnotatedMedia):
    """A prompt and one answer, which `media` is."""

    def digest(self) -> str:
        return hashlib.sha256(self.media.encode()).hexdigest()

    def sample(self, where: str, frames: int = 1) -> Sample:
        return Sample(self.prompt, Answer(self.media))


def read_text_annotations(path: str, dimensions: tuple[str, ...]) -> list[Annotation]:
    """Every annotation of a table of texts. Raises BadRow naming the row, or UserError for a table without one."""
    found = []
    for where, row in table_rows(path):
        check_row(row)
        if "chosen" in row or "rejected" in row:
            sides = (annotated_text(row, side, where) for side in ("chosen", "rejected"))
            found.append(Annotation(*sides, {dimensions[0]: 1.0}, where, row_strength(row, where),
                                    kind=str(row.get("kind") or ""), user=row_user(row, where)))
        elif "a" in row or "b" in row:
            found.append(comparison_of(row, where, dimensions,
                                       lambda side, row=row, where=where: annotated_text(row, side, where)))
        else:
            raise BadRow(f"{where}: names neither chosen and rejected nor a and b, two answers to its prompt")
    if not found:
        raise UserError(f"data {path}: holds no comparison of texts")
    return found


def annotated_text(row: dict, side: str, where: str) -> AnnotatedText:
    """One side of a comparison. Raises BadRow for what is no text."""
    prompt, text = text_of_turns(row.get("prompt"), "user"), text_of_turns(row.get(side), "assistant")
    if not prompt or not prompt.strip():
        raise BadRow(f"{where}: 'prompt' is missing, empty, or neither text nor a list of messages with role and "
                     "content")
    problem = problem_of(text, row.get(side), f"{where}: '{side}'")
    if problem:
        raise BadRow(problem)
    return AnnotatedText(prompt, text)
