"""Samples: a prompt and the picture or clip made for it; reading, fitting and laying out pictures."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from torch import Tensor

from visalign.errors import UserError

MAX_PIXELS = 100_000_000
"""A larger picture is refused before it is decoded: it is a mistake or a decompression bomb."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".apng"})
VIDEO_SUFFIXES = frozenset({".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v"})


@dataclass(frozen=True)
class Video:
    """Frames of equal size in order of time, and how many of them are shown a second."""

    frames: list[Image.Image]
    fps: float

    def evenly(self, count: int) -> list[Image.Image]:
        """At most `count` frames at even distances, the first and the last among them."""
        if len(self.frames) <= count:
            return self.frames
        return [self.frames[i] for i in np.linspace(0, len(self.frames) - 1, count).round().astype(int)]


@dataclass
class Sample:
    """One generation: prompt ('' where there is none), picture or clip, seed, and whatever else is known of it."""

    prompt: str
    image: Image.Image | None = None
    seed: int | None = None
    known: dict[str, Any] = field(default_factory=dict)
    video: Video | None = None

    @property
    def modality(self) -> str:
        return "video" if self.video is not None else "image"

    def frames(self, count: int) -> list[Image.Image]:
        """The picture, or at most `count` evenly spaced frames of the clip."""
        return self.video.evenly(count) if self.video is not None else [self.image]

    def with_media(self, media: "Image.Image | Video") -> "Sample":
        is_video = isinstance(media, Video)
        return Sample(self.prompt, None if is_video else media, self.seed, self.known, media if is_video else None)


def read_image(data: bytes | str | Path, where: str) -> Image.Image:
    """A still RGB picture from bytes or a path, turned as its EXIF says, transparent parts on white.

    Raises UserError naming `where` when the file is missing, truncated, animated, too large or no picture.
    """
    media = read_picture(data, where)
    if isinstance(media, Video):
        raise UserError(f"{where}: {_name(data)} is animated ({len(media.frames)} frames) where a still picture is "
                        "expected")
    return media


def _name(data: bytes | str | Path) -> str:
    return "the image bytes" if isinstance(data, bytes) else str(data)


def read_picture(data: bytes | str | Path, where: str) -> Image.Image | Video:
    """A still picture, or a Video of every frame of an animated one. Raises UserError as `read_image` does."""
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            count = getattr(image, "n_frames", 1) if getattr(image, "is_animated", False) else 1
            if image.width * image.height * count > MAX_PIXELS:
                size = f"{image.width}x{image.height}" + (f" and {count} frames" if count > 1 else "")
                raise UserError(f"{where}: {_name(data)} has {size}, more than {MAX_PIXELS:,} pixels; refused as a "
                                "possible decompression bomb")
            if count > 1 and image.format != "MPO":
                return _animation(image, count)
            image.load()
            return _to_rgb(image)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no image file {data}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: {_name(data)} is not a readable picture "
                        f"({' '.join(str(error).split())[:120]})") from None


def _animation(image: Image.Image, count: int) -> Video:
    """All frames; one that is shown longer than the briefest stands as often as it lasts (writers merge equals)."""
    frames, shown = [], []
    for number in range(count):
        image.seek(number)
        frames.append(_to_rgb(image))
        shown.append(image.info.get("duration", 0) or 100)
    repeats = [min(50, max(1, round(each / min(shown)))) for each in shown]
    return Video([frame for frame, n in zip(frames, repeats, strict=True) for _ in range(n)], 1000 / min(shown))


def _to_rgb(image: Image.Image) -> Image.Image:
    if "exif" in image.info or image.format == "TIFF":
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a channel; Pillow's own conversion would cut instead of scale
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8)
                               ).convert("RGB")
    if image.mode == "F":
        raise ValueError("a floating-point picture, whose range is not known")
    if image.mode in ("RGBA", "LA", "P", "PA", "La", "RGBa") or "transparency" in image.info:
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
