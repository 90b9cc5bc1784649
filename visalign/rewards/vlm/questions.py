"""What is asked and answered, and who can be asked."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class Question:
    """A text and the pictures it is about, in order."""

    text: str
    images: tuple[Image.Image, ...]

    def key(self, settings: dict[str, Any]) -> str:
        """Names this question to this judge: its settings, the text, and what the pictures show."""
        digest = hashlib.sha256(json.dumps([settings, self.text], sort_keys=True).encode())
        for image in self.images:
            digest.update(f"{image.mode}{image.size}".encode() + image.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Answer:
    """The model's words and, where it told, the probabilities of the digits at the place of the first one."""

    text: str
    digits: dict[str, float] | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    reason: str


class Asker(Protocol):
    """A way to a model. One outcome a question, in the questions' order; `on_answer(i, answer)` as each arrives."""

    def ask(self, questions: list[Question], on_answer: Callable[[int, Answer], None]) -> list[Answer | Failure]: ...
