"""Questions, answers, and the interface of whatever answers them."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from PIL import Image

from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.forms import Form


@dataclass(frozen=True)
class Question:
    """A text and the images it is about, in order, and the form its answer must have.

    form: None where the text itself says how to answer, as those of published judges do. draw: tells questions apart
    that are asked several times, at a temperature.
    """

    text: str
    images: tuple[Image.Image, ...]
    form: Form | None = None
    draw: int = 0

    def key(self, settings: dict[str, Any]) -> str:
        """The cache key of this question to this judge: its settings, the text, the form, and the images."""
        form = asdict(self.form) if self.form else None
        drawn = [self.draw] if self.draw else []
        digest = hashlib.sha256(json.dumps([settings, self.text, form, *drawn], sort_keys=True).encode())
        for image in self.images:
            digest.update(f"{image.mode}{image.size}".encode() + image.tobytes())
        return digest.hexdigest()

    def asked(self, as_json: bool) -> str:
        """The text with the form's own sentence after it."""
        return f"{self.text}\n{self.form.asked(as_json)}" if self.form else self.text


@dataclass(frozen=True)
class Reply:
    """The model's text and, where given, the probability of each of the form's choices at the answer's position.

    note: on how it was asked, such as images that were made smaller.
    """

    text: str
    chances: dict[str, float] | None = None
    note: str | None = None


class Asker(Protocol):
    """Access to a model. One outcome per question, in the questions' order; `on_answer(i, answer)` as each arrives."""

    def ask(self, questions: list[Question], on_answer: Callable[[int, Reply], None]) -> list[Reply | Failure]: ...
