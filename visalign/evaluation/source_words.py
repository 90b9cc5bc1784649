"""What a user names to be measured or shown: SOURCE, MODEL+LORA, and either of them guided away from an adapter.

    SOURCE[+negative:[M:]ADAPTER]

MODEL+LORA may also be the name of an embedded LoRA alone (tiny-sd3-aligned), which is known to be for its model.
ADAPTER is a negative adapter (Diffusion-NPO): a LoRA's file or folder, or a run with data.swap. M, 0 where it is left
out, is how much of the model's own LoRA the negative side is without (`visalign generate --negative-scale`).
"""

from dataclasses import dataclass
from pathlib import Path

from visalign.errors import UserError
from visalign.generators.files.embedded import EMBEDDED_LORAS, MODEL_ASSETS
from visalign.sampling.folder import Negative

AWAY_FROM = "+negative:"


@dataclass(frozen=True)
class SourceWords:
    """The parts of a source. text: as it was given. source: what the adapters are for, or all of it."""

    text: str
    source: str
    lora: Path | None = None
    negative: Negative | None = None

    @property
    def path(self) -> Path:
        return Path(self.source).expanduser()


def parse_source(text: str) -> SourceWords:
    """Take a source apart; a file or folder of that very name is a source as a whole. Raises UserError."""
    if _exists(text):
        return SourceWords(text, text)
    rest, *others = text.split(AWAY_FROM)
    if len(others) > 1 or not rest or others == [""]:
        raise UserError(f"{text}: expected SOURCE{AWAY_FROM}ADAPTER, with one ADAPTER that is a LoRA's file or folder "
                        f"or a run, such as tiny-sdxl{AWAY_FROM}runs/tiny-npo")
    source, plus, lora = (rest, "", "") if _exists(rest) else rest.partition("+")
    if not source:
        raise UserError(f"{text}: model.source, before the LoRA, must not be empty; write MODEL+LORA")
    negative = _negative(text, others[0]) if others else None
    if not plus and source in EMBEDDED_LORAS and not _exists(source):
        return SourceWords(text, EMBEDDED_LORAS[source], MODEL_ASSETS / source, negative)
    return SourceWords(text, source, _lora(lora) if plus else None, negative)


def _lora(given: str) -> Path:
    return MODEL_ASSETS / given if given in EMBEDDED_LORAS and not _exists(given) else Path(given).expanduser()


def _negative(text: str, given: str) -> Negative:
    """Of ADAPTER or M:ADAPTER."""
    number, colon, adapter = given.partition(":")
    try:
        less = float(number) if colon and not _exists(given) else None
    except ValueError:
        less = None
    if less is None:
        return Negative(Path(given).expanduser())
    if not 0 <= less <= 1:
        raise UserError(f"{text}: the negative scale {number} must be at least 0 and at most 1")
    if not adapter:
        raise UserError(f"{text}: names no adapter after the negative scale {number}")
    return Negative(Path(adapter).expanduser(), less)


def _exists(text: str) -> bool:
    return Path(text).expanduser().exists()
