"""Samples: a prompt and the image, video or text generated for it; fitting and laying out images."""

import io
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.fitting import fit_of

MAX_PIXELS = 100_000_000
"""A larger image is refused before it is decoded: a mistake or a decompression bomb."""


@dataclass(frozen=True)
class Video:
    """Frames of equal size in order of time, and their rate per second."""

    frames: list[Image.Image]
    fps: float

    def evenly(self, count: int) -> list[Image.Image]:
        """At most `count` evenly spaced frames, including the first and the last."""
        if len(self.frames) <= count:
            return self.frames
        return [self.frames[i] for i in np.linspace(0, len(self.frames) - 1, count).round().astype(int)]


Media = Image.Image | Video | Answer


@dataclass
class Sample:
    """One generation: prompt ('' where there is none), image, video or answer, seed, and other metadata.

    sources: of an edit, the images that the prompt speaks of.
    """

    prompt: str
    media: Media | None = None
    seed: int | None = None
    known: dict[str, Any] = field(default_factory=dict)
    sources: tuple[Image.Image, ...] = ()

    @property
    def source_prompt(self) -> str:
        """The prompt as given to the generator, which may hold more than the text that rewards see."""
        return self.known.get("source_prompt", self.prompt)

    @property
    def image(self) -> Image.Image | None:
        return None if isinstance(self.media, Video | Answer) else self.media

    @property
    def video(self) -> Video | None:
        return self.media if isinstance(self.media, Video) else None

    @property
    def answer(self) -> Answer | None:
        return self.media if isinstance(self.media, Answer) else None

    @property
    def modality(self) -> str:
        return "video" if self.video is not None else "text" if self.answer is not None else "image"

    def frames(self, count: int) -> list[Image.Image]:
        """The image, or at most `count` evenly spaced frames of the video. Raises UserError for a text."""
        return frames_of(self.media, count)

    def with_media(self, media: Media) -> "Sample":
        return replace(self, media=media)


def frames_of(media: Media, count: int) -> list[Image.Image]:
    """The image, or at most `count` evenly spaced frames of the video. Raises UserError for a text."""
    if isinstance(media, Answer):
        raise UserError("a text has no frames; what measures images cannot measure it")
    return media.evenly(count) if isinstance(media, Video) else [media]


def fit_image(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scale the image until it covers width x height and crop the centre."""
    fit = fit_of((image.height, image.width), (height, width))
    (top, left), size = fit.crop, fit.scaled[::-1]
    if size[0] * size[1] > MAX_PIXELS:  # an image of 1 x 60,000: only the kept part is computed
        x, y = image.width / size[0], image.height / size[1]
        return image.resize((width, height), Image.Resampling.LANCZOS,
                            (left * x, top * y, (left + width) * x, (top + height) * y))
    image = image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)
    return image.crop((left, top, left + width, top + height))


LONGEST = 200
"""An image with a larger aspect ratio is cropped before libraries scale its shorter side and crop the centre."""


def middle(image: Image.Image) -> Image.Image:
    """The image, or the middle of one such as 1 x 60,000, which would be scaled to gigabytes."""
    most = LONGEST * min(image.size)
    if max(image.size) <= most:
        return image
    width, height = (min(side, most) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def fit_square(image: Image.Image, side: int) -> Image.Image:
    """Scale the shorter side to `side` pixels and crop the centre."""
    return fit_image(image, side, side)


def to_pixels(images: list[Image.Image], side: int | tuple[int, int]) -> Tensor:
    """float32 [N, 3, height, width] in [-1, 1]; side: of a square, or (height, width)."""
    height, width = (side, side) if isinstance(side, int) else side
    arrays = np.stack([np.asarray(fit_image(image, width, height), dtype=np.float32) for image in images])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1


def video_pixels(videos: list[Video], frames: int, size: tuple[int, int]) -> Tensor:
    """float32 [N, 3, frames, height, width] in [-1, 1]; `frames` evenly spaced, first and last included."""
    return torch.stack([to_pixels([video.frames[i] for i in np.linspace(0, len(video.frames) - 1, frames).round()
                                   .astype(int)], size).transpose(0, 1) for video in videos])


def to_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


STRIP = 4
"""Frames that represent a video in a grid of images."""


def grid(rows: list[tuple[str, list[Media]]], cell: int = 96, label_width: int = 180) -> Image.Image:
    """Labelled rows of images on white; a video is a strip of its frames without gaps."""
    gap = 4
    strips = [(label, [frames_of(media, STRIP) for media in items]) for label, items in rows]
    width = max((sum(cell * len(strip) + gap for strip in items) for _, items in strips), default=0)
    canvas = Image.new("RGB", (label_width + width, max(1, len(rows)) * (cell + gap)), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    for i, (label, items) in enumerate(strips):
        top, left = i * (cell + gap), label_width
        draw.multiline_text((6, top + cell // 3), wrap(label, label_width // 8), fill="black", font=font)
        for strip in items:
            for image in strip:
                resample = Image.Resampling.NEAREST if image.width < cell else Image.Resampling.LANCZOS
                canvas.paste(fit_square(image, min(image.size)).resize((cell, cell), resample), (left, top + gap // 2))
                left += cell
            left += gap
    return canvas


def looping(rows: list[tuple[str, list[Media]]], cell: int = 96, label_width: int = 180, frames: int = 16) -> Video:
    """The same rows as one video in which every video plays at its own rate, the longest once."""
    videos = [media for _, items in rows for media in items if isinstance(media, Video)]
    seconds = max(len(video.frames) / video.fps for video in videos)
    shown = min(frames, max(len(video.frames) for video in videos))

    def at(media: Media, moment: float) -> Image.Image:
        return media.frames[int(moment * media.fps) % len(media.frames)] if isinstance(media, Video) else media

    moments = [seconds * k / shown + 1e-6 for k in range(shown)]
    return Video([grid([(label, [at(media, moment) for media in items]) for label, items in rows], cell, label_width)
                  for moment in moments], shown / seconds)


def wrap(text: str, width: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, max(8, width))[:4])
