"""The one form in which a model must answer, and reading it; any other form is not an answer.

A digit somewhere in prose is never taken for a score. Thoughts are left out; of what follows them the JSON object at
its end counts, or its last line when that is `Mark: N` and nothing else, or N when that is all there is.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LONGEST_LINE = 200
"""No line that holds an answer is longer; a bound also for the time that looking through it takes."""
THOUGHT = r"think|thinking|thought|thoughts|reason|reasoning|scratchpad"
OPENED = re.compile(rf"<(?:{THOUGHT})>|◁think▷", re.IGNORECASE)
CLOSED = re.compile(rf"</(?:{THOUGHT})>|◁/think▷", re.IGNORECASE)
NUMBER = r"(?P<number>(?:0|[1-9][0-9]{0,3})(?:\.[0-9]{1,30})?)"
DRESS = r"[*_`\s]*"
"""Markdown that people see as bold or code."""


@dataclass(frozen=True)
class Form:
    """The JSON {"mark": N}, or a last line `Mark: N`, or N alone, N being one of `choices`.

    between: numbers between the least and the largest choice are answers too, as in 3.5.
    """

    mark: str
    choices: tuple[int, ...]
    between: bool = False

    def asked(self, as_json: bool) -> str:
        """The sentence that asks for this form."""
        which = f"N being one of {', '.join(map(str, self.choices))}"
        if as_json:
            return f'Answer with JSON and nothing else: {{"{self.mark}": N}}, {which}.'
        return f"The last line of your answer must be `{self.mark.capitalize()}: N` and nothing else, {which}."

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer, as `response_format` takes it."""
        return {"type": "json_schema", "json_schema": {"name": self.mark, "strict": True, "schema": {
            "type": "object", "properties": {self.mark: {"type": "integer", "enum": list(self.choices)}},
            "required": [self.mark], "additionalProperties": False}}}

    def read(self, text: str) -> float:
        """The number that is answered. Raises ValueError with the answer's words for another form or number."""
        start, stop = self._place(text)
        value = float(text[start:stop])
        low, high = min(self.choices), max(self.choices)
        if value not in self.choices and not (self.between and low <= value <= high):
            raise ValueError(f"the answer holds no {self.mark} from {low} to {high}, it says {text[start:stop]}: "
                             f"{form_shown(text)}")
        return value

    def token(self, text: str, tokens: Sequence[str]) -> int | None:
        """Which token is the answer's number and nothing but that; None where none is, or the tokens tell another.

        tokens: pieces that make up the text, thoughts and all, and perhaps a special token at the end.
        """
        kept = list(tokens)
        while kept and re.fullmatch(r"\s*|<\S{1,40}>", kept[-1]) and not CLOSED.fullmatch(kept[-1]):
            kept.pop()
        joined = "".join(kept)
        try:
            start, stop = self._place(joined)
            if float(joined[start:stop]) != self.read(text):
                return None
        except ValueError:
            return None
        here = 0
        for i, piece in enumerate(kept):
            if here <= start < here + len(piece):
                return i if piece.strip() == joined[start:stop] and piece.strip().isdecimal() else None
            here += len(piece)
        return None

    def _place(self, text: str) -> tuple[int, int]:
        """Where the number stands. Raises ValueError when the answer has another form."""
        start, stop = answer_span(text)
        body = text[start:stop]
        found = self._in_json(body) if body.rstrip("`").rstrip().endswith("}") else self._in_last_line(body)
        if found is None:
            raise ValueError(f"the answer holds no {self.mark} from {min(self.choices)} to {max(self.choices)} in the "
                             f"form that was asked for: {form_shown(text)}")
        return start + found[0], start + found[1]

    def _in_json(self, body: str) -> tuple[int, int] | None:
        start = body.rfind("{")
        try:
            said = json.loads(body[start:].rstrip("` \t\r\n"), object_pairs_hook=unique)
        except (ValueError, RecursionError):
            return None
        found = list(re.finditer(rf'"{self.mark}"\s*:\s*"?{NUMBER}"?\s*[,}}]', body[start:], re.IGNORECASE))
        if self.mark not in said or len(found) != 1:
            return None
        return start + found[0].start("number"), start + found[0].end("number")

    def _in_last_line(self, body: str) -> tuple[int, int] | None:
        start = last_line(body)
        line = body[start:]
        out_of = rf"(?:\s*(?:/|out\ of)\s*{max(self.choices)})?" if self.between else ""
        found = re.fullmatch(rf"[#>\-]*{DRESS}(?P<mark>(?:(?:final|overall)\s+)?{self.mark}{DRESS}[:=])"
                             rf"{DRESS}{NUMBER}{out_of}{DRESS}\.?{DRESS}", line, re.IGNORECASE)
        if not found and not body[:start].strip("` \t\r\n"):
            found = re.fullmatch(rf"{DRESS}{NUMBER}{out_of}{DRESS}\.?{DRESS}", line, re.IGNORECASE)
        return (start + found.start("number"), start + found.end("number")) if found else None


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, names in lower case. Raises ValueError when a name occurs twice."""
    found = {name.lower(): value for name, value in pairs}
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def object_in(text: str) -> dict[str, Any]:
    """The JSON object of an answer after its thoughts, names in lower case. Raises ValueError where it is none."""
    body = without_thoughts(text)
    try:
        said = json.loads(body[body.find("{"):body.rfind("}") + 1], object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise ValueError(f"the answer is not JSON: {form_shown(body)}") from None
    if not isinstance(said, dict):
        raise ValueError(f"the answer's JSON is no object: {form_shown(body)}")
    return said


def answer_span(text: str) -> tuple[int, int]:
    """Start and end of the text after the thoughts, trimmed; the inside of <answer> where there is one.

    Raises ValueError when the thoughts never ended.
    """
    start = max((found.end() for found in CLOSED.finditer(text)), default=0)
    if OPENED.search(text, start):
        raise ValueError("the answer was cut off while the model was still reasoning (raise max_tokens): "
                         f"{form_shown(text)}")
    stop = len(text)
    opened = text.rfind("<answer>", start)
    if opened >= 0:
        start, closed = opened + len("<answer>"), text.find("</answer>", opened)
        stop = closed if closed >= 0 else stop
    body = text[start:stop]
    return start + len(body) - len(body.lstrip()), start + len(body.rstrip()) if body.strip() else start


def without_thoughts(text: str) -> str:
    """The text after the thoughts; see `answer_span`."""
    start, stop = answer_span(text)
    return text[start:stop]


def last_line(text: str) -> int:
    """Where the last line begins; a line too long for an answer counts as empty."""
    start = text.rstrip("`\r\n ").rfind("\n") + 1
    return start if len(text) - start <= LONGEST_LINE else len(text)


def number_in(text: str, low: float, high: float) -> float:
    """A text that is one number from low to high, bold or not. Raises ValueError for any other."""
    found = re.fullmatch(rf"{DRESS}{NUMBER}(?:\s*/\s*{high:g})?{DRESS}\.?{DRESS}", text[:LONGEST_LINE])
    if not found:
        raise ValueError(f"{form_shown(text)} is no number")
    if not low <= float(found["number"]) <= high:
        raise ValueError(f"{found['number']} is outside {low:g} to {high:g}")
    return float(found["number"])


def form_shown(text: str) -> str:
    """The last words of an answer, quoted, for a message."""
    words = " ".join(text[-400:].split())
    return repr(words if len(words) <= 80 else "…" + words[-80:])
