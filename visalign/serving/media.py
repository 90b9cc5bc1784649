"""Media as requests give them: base64, parts of a form, files of allowed folders, frames, arrays; bounded before they
are decoded."""

import base64
import binascii
import io
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from visalign.errors import UserError
from visalign.media.answers import LONGEST_ANSWER, Answer
from visalign.media.image_files import HELD_PIXELS, read_image, upright_size
from visalign.media.kinds import is_video
from visalign.media.samples import Media, Video
from visalign.media.video_files import read_media
from visalign.validation.ranges import FrameRate

ENCODED_VIDEO = HELD_PIXELS // 4
"""Pixels that an encoded video counts as before it is decoded: 64 frames of a megapixel."""
DATA_URL = re.compile(r"data:[\w/+.-]*;base64,")
MOST_FRAMES = 4096


class Reference(BaseModel):
    """Where an image or a video is, in exactly one way: base64, part (the name of a part of a multipart request), path
    (of a file in an allowed folder), or frames, images in order of time, fps of them a second."""

    model_config = ConfigDict(extra="forbid")

    base64: str | None = None
    part: str | None = None
    path: str | None = None
    frames: "list[str | Reference] | None" = None
    fps: FrameRate = 8.0


@dataclass
class RequestMedia:
    """Resolves references of one request. parts: of a multipart request. budget: bytes that may still be read."""

    folders: tuple[Path, ...]
    budget: int
    parts: Mapping[str, bytes] = field(default_factory=dict)

    def opened(self, reference: "str | Reference") -> "bytes | list[bytes]":
        """The bytes of an image or video, or of its frames. Raises UserError for what is not there."""
        if isinstance(reference, str):
            return from_base64(reference)
        given = [name for name in ("base64", "part", "path", "frames") if getattr(reference, name) is not None]
        if len(given) != 1:
            raise UserError(f"give exactly one of base64, part, path and frames, not {' and '.join(given) or 'none'}")
        if reference.base64 is not None:
            return from_base64(reference.base64)
        if reference.path is not None:
            return self._read(reference.path)
        if reference.part is not None:
            if reference.part not in self.parts:
                raise UserError(f"the request has no part {reference.part[:80]!r}")
            return self.parts[reference.part]
        frames = [self.opened(frame) for frame in reference.frames or ()]
        if not 0 < len(frames) <= MOST_FRAMES or not all(isinstance(frame, bytes) for frame in frames):
            raise UserError(f"frames must be 1 to {MOST_FRAMES} images")
        return frames

    def _read(self, path: str) -> bytes:
        """A regular file that is, links resolved, in an allowed folder; others are as files that do not exist."""
        if not self.folders:
            raise UserError("this server reads no files; send the bytes, or start it with --allow-folder")
        for folder in self.folders:
            try:
                root, file = folder.resolve(strict=True), (folder / path).resolve(strict=True)
                if not file.is_relative_to(root):
                    continue
                with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as opened:
                    state = os.fstat(opened.fileno())
                    if not stat.S_ISREG(state.st_mode):
                        continue
                    if state.st_size > self.budget:
                        raise UserError(f"path {path[:200]!r}: more bytes than one request may be of (--max-mb)")
                    self.budget -= state.st_size
                    return opened.read(state.st_size)
            except (OSError, RuntimeError, ValueError):  # links that go round, or no name at all
                continue
        raise UserError(f"path {path[:200]!r}: no such file in an allowed folder")


def from_base64(text: str) -> bytes:
    """Raises UserError for what is not base64."""
    started = DATA_URL.match(text[:100])
    try:
        return base64.b64decode(text[started.end():] if started else text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{text[:20]!r} is not base64") from None


@dataclass(frozen=True)
class Encoded:
    """An image or a video as it came. data: a file's bytes, or those of a video's frames. kind: image or video."""

    data: bytes | list[bytes]
    kind: str
    fps: float = 8.0

    @property
    def pixels(self) -> int:
        """How many it decodes to, at most. Raises UserError for what is no image."""
        if isinstance(self.data, list):
            return sum(_pixels(frame) for frame in self.data)
        return ENCODED_VIDEO if self.kind == "video" or is_video(self.data) else _pixels(self.data)

    def decoded(self, remarks: list[str]) -> Media:
        """Raises UserError for what cannot be read, or is of the other kind."""
        if isinstance(self.data, list):
            return Video([read_image(frame, f"frame {i}") for i, frame in enumerate(self.data)], self.fps)
        if self.kind == "image":
            return read_image(self.data, "image")
        media = read_media(self.data, "video", remarks=remarks)
        if not isinstance(media, Video):
            raise UserError("video: the bytes are of a still image")
        return media


@dataclass(frozen=True)
class Decoded:
    """An image or a video that came as values."""

    media: Media

    @property
    def pixels(self) -> int:
        frames = self.media.frames if isinstance(self.media, Video) else [self.media]
        return sum(frame.width * frame.height for frame in frames)

    def decoded(self, remarks: list[str]) -> Media:
        return self.media


@dataclass(frozen=True)
class Written:
    """An answer of a language model."""

    text: str
    pixels = 0

    def decoded(self, remarks: list[str]) -> Answer:
        """Raises UserError for a text that is too long."""
        if len(self.text) > LONGEST_ANSWER:
            raise UserError(f"the answer has {len(self.text):,} characters, more than {LONGEST_ANSWER:,}")
        return Answer(self.text)


def _pixels(data: bytes) -> int:
    height, width = upright_size(data, "image")
    return height * width


def read_array(data: bytes) -> np.ndarray:
    """uint8 array of a .npy file, without copying; nothing is unpickled and no size is believed.

    Raises UserError for another type, or where the bytes are not as many as the shape says.
    """
    opened = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(opened)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(opened)
    except (ValueError, EOFError, SyntaxError, MemoryError, RecursionError) as error:
        raise UserError(f"the bytes after the first line are no .npy array ({' '.join(str(error).split())[:100]})"
                        ) from None
    values = np.frombuffer(data, np.uint8, offset=opened.tell())
    count = 1
    for side in shape:
        count *= side
    if dtype != np.uint8 or fortran or count != len(values):
        raise UserError(f"expected uint8 values in C order, as many as the shape {shape} says; got {dtype} and "
                        f"{len(values)} bytes")
    return values.reshape(shape)


def media_of_array(array: np.ndarray, media_type: Any, fps: float) -> list[Media]:
    """Images of uint8 [B, H, W, 3], or videos of uint8 [B, 3, T, H, W]. Raises UserError for another shape."""
    if media_type == "image" and array.ndim == 4 and array.shape[-1] == 3 and array.size:
        return [Image.fromarray(each) for each in array]
    if media_type == "video" and array.ndim == 5 and array.shape[1] == 3 and array.size:
        return [Video([Image.fromarray(frame) for frame in np.ascontiguousarray(each.transpose(1, 2, 3, 0))], fps)
                for each in array]
    raise UserError(f"an array of shape {array.shape} is not of {media_type}s: images are [B, H, W, 3], videos "
                    "[B, 3, T, H, W]")
