"""Samples: a prompt and the picture made for it; reading, fitting and laying out pictures."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError
from torch import Tensor

from visalign.errors import UserError


@dataclass
class Sample:
    """One generation: prompt, picture, seed, and whatever else is known of it."""

    prompt: str
    image: Image.Image
    seed: int | None = None
    known: dict[str, Any] = field(default_factory=dict)


def read_image(data: bytes | str | Path, where: str) -> Image.Image:
    """An RGB picture from bytes or a path.

    Raises UserError naming `where` when the file is missing, truncated or no picture.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            image.load()
            return _on_white(image)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no image file {data}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = "the image bytes" if isinstance(data, bytes) else str(data)
        raise UserError(f"{where}: {name} is not a readable picture ({' '.join(str(error).split())[:120]})") from None


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "P", "PA"):
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return image.convert("RGB")


def fit_square(image: Image.Image, side: int) -> Image.Image:
    """Scale the shorter side to `side` pixels and crop the centre."""
    width, height = image.size
    scale = side / min(width, height)
    image = image.resize((max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def to_pixels(images: list[Image.Image], side: int) -> Tensor:
    """float32 [N, 3, side, side] in [-1, 1]."""
    arrays = np.stack([np.asarray(fit_square(image, side), dtype=np.float32) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


def to_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def grid(rows: list[tuple[str, list[Image.Image]]], cell: int = 96, label_width: int = 180) -> Image.Image:
    """Labelled rows of pictures on white."""
    columns = max((len(images) for _, images in rows), default=0)
    canvas = Image.new("RGB", (label_width + columns * (cell + 4), max(1, len(rows)) * (cell + 4)), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for i, (label, images) in enumerate(rows):
        top = i * (cell + 4)
        draw.multiline_text((6, top + cell // 3), wrap(label, label_width // 8), fill="black", font=font)
        for j, image in enumerate(images):
            resample = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
            canvas.paste(fit_square(image, min(image.size)).resize((cell, cell), resample),
                         (label_width + j * (cell + 4), top + 2))
    return canvas


def wrap(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, max(8, width))[:4])
