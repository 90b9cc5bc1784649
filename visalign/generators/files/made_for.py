"""What a model was made for where its own configuration does not say so: shape, sampling steps, guidance."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.shape import Shape
from visalign.storage.files import write_atomically

FILE = "visalign.json"
"""Beside model_index.json: any of {"height", "width", "frames", "fps", "steps", "guidance_scale"}."""


@dataclass(frozen=True)
class Sampling:
    """Sampling steps and guidance scale."""

    steps: int
    guidance_scale: float


def _told(folder: str) -> dict:
    """What a model's folder says; {} where it says nothing. Raises UserError for an unusable file."""
    file, known = Path(folder) / FILE, [field.name for kind in (Shape, Sampling) for field in fields(kind)]
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text())
        odd = next((name for name in told if name not in known or not isinstance(told[name], int | float)), None)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"model {file}: not readable as {{{', '.join(known)}}} ({error})") from None
    if not isinstance(told, dict) or odd is not None:
        raise UserError(f"model {file}: not readable as {{{', '.join(known)}}} ('{odd}')")
    return told


def pass_on(folder: str, to: Path) -> None:
    """Write into another model's folder what a model's folder says, where it says anything."""
    told = _told(folder)
    if told:
        write_atomically(to / FILE, (json.dumps(told) + "\n").encode())


def told_shape(folder: str) -> Shape:
    """The shape that a model's folder names, where it names one."""
    return Shape(**{name: value for name, value in _told(folder).items() if name in Shape.__dataclass_fields__})


def sampling_of(folder: str, family: type[Generator], steps: int | None = None,
                guidance_scale: float | None = None) -> Sampling:
    """Steps and guidance as they were asked for, else as the model's folder or its family has them."""
    told = _told(folder)
    if steps is None:
        steps = told.get("steps", family.default_steps)
    if guidance_scale is None:
        guidance_scale = told.get("guidance_scale", family.default_guidance_scale)
    return Sampling(steps, guidance_scale)
