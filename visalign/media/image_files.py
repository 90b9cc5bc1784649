"""Images as users have them: any format Pillow reads, any colour space, rotated, transparent, animated or broken."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from visalign.errors import UserError
from visalign.media.fitting import Size
from visalign.media.kinds import ANIMATED, image_formats
from visalign.media.samples import MAX_PIXELS, Media, Video
from visalign.storage.text_files import printable

HELD_PIXELS = 128 * 1920 * 1080
"""Most pixels that the frames of one video may have in memory while it is read; larger frames are scaled down."""
MOST_DECODED = 100 * MAX_PIXELS
"""An animated image with more pixels than this in all its frames is refused as a decompression bomb."""

ORIENTATION = 0x0112
"""The EXIF entry that says how an image is turned; from 5 on its sides change places."""

BROKEN_IMAGE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError,
           OverflowError, RuntimeError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for damaged or mislabelled files."""


def read_image(data: bytes | str | Path, where: str) -> Image.Image:
    """A still RGB image from bytes or a path, rotated as its EXIF says, transparent parts on white.

    Raises UserError naming `where` when the file is missing, truncated, animated, too large or not an image.
    """
    media = decode_image(data, where, 2)
    if isinstance(media, Video):
        raise UserError(f"{where}: {name_of(data)} is animated where a still image is expected")
    return media


def name_of(data: bytes | str | Path, what: str = "image") -> str:
    return f"the {what} bytes" if isinstance(data, bytes) else printable(str(data))


def open_image(data: bytes | str | Path) -> Image.Image:
    """The image with only its header read. Raises what Pillow raises."""
    return Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=image_formats())


def upright_size(data: bytes | str | Path, where: str) -> Size:
    """(height, width) of a still image, rotated as its EXIF says, from its header.

    Raises UserError naming `where` for what is no image.
    """
    try:
        with open_image(data) as image:
            sideways = ("exif" in image.info or image.format == "TIFF") and image.getexif().get(ORIENTATION, 1) >= 5
            return image.size if sideways else image.size[::-1]
    except BROKEN_IMAGE:
        decode_image(data, where, 1)  # raises with the reason
        raise UserError(f"{where}: {name_of(data)} has no size that can be read") from None


def decode_image(data: bytes | str | Path, where: str, max_frames: int = 64,
                 remarks: list[str] | None = None) -> Media:
    """A still sRGB image, or a Video of at most `max_frames` evenly spaced frames of an animated one.

    remarks: receives a sentence for every part of the file that was not used. Raises UserError as `read_image` does.
    """
    remarks = [] if remarks is None else remarks
    try:
        with open_image(data) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{where}: {name_of(data)} has {image.width}x{image.height}, more than {MAX_PIXELS:,} "
                                "pixels; refused as a possible decompression bomb")
            count = getattr(image, "n_frames", 1)
            if count > 1 and image.format in ANIMATED:
                if image.width * image.height * count > MOST_DECODED:
                    raise UserError(f"{where}: {name_of(data)} has {image.width}x{image.height} and {count} frames, "
                                    f"more than {MOST_DECODED:,} pixels; refused as a possible decompression bomb")
                return _animation(image, count, max_frames, remarks)
            if count > 1 and image.format in ("TIFF", "HEIF", "DCX"):
                remarks.append(f"the first of {count} pages was taken")
            image.load()
            return to_rgb(image, remarks)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no image file {name_of(data)}") from None
    except BROKEN_IMAGE as error:
        reason = printable(" ".join(str(error).split())[:120])
        raise UserError(f"{where}: {name_of(data)} is not a readable image ({reason})") from None


def is_animated(file: Path) -> bool:
    """Whether an image file is animated. Raises UserError when it is not an image."""
    try:
        with open_image(file) as image:
            return image.format in ANIMATED and getattr(image, "n_frames", 1) > 1
    except BROKEN_IMAGE as error:
        raise UserError(f"{name_of(file)}: not a readable image ({' '.join(str(error).split())[:120]})") from None


def _animation(image: Image.Image, count: int, max_frames: int, remarks: list[str]) -> Video:
    """Frames evenly spaced in time; a frame shown longer than the shortest one is repeated accordingly."""
    shown: list[float] = []

    def frames() -> Iterator[tuple[float, Image.Image]]:
        most = HELD_PIXELS // (2 * max_frames)
        for number in range(count):
            image.seek(number)
            frame = shrunk(to_rgb(image, [] if number else remarks), most, remarks)
            shown.append(image.info.get("duration", 0) or 100)  # known to WebP once the frame is decoded
            yield number, frame

    kept = thinned(frames(), max_frames)
    repeats = [min(50, max(1, round(each / min(shown)))) for each in shown]  # writers merge equal frames
    number_at = np.repeat(np.arange(count), repeats)
    moments = np.linspace(0, len(number_at) - 1, min(max_frames, len(number_at))).round().astype(int)
    numbers = np.array([number for number, _ in kept])
    chosen = [kept[int(np.abs(numbers - number_at[moment]).argmin())][1] for moment in moments]
    return Video(chosen, 1000 / min(shown) * min(1, max_frames / len(number_at)))


def thinned(frames: Iterator[tuple[float, Image.Image]], most: int) -> list[tuple[float, Image.Image]]:
    """All of up to `2 most` frames, else every second, fourth ...; never more than that are in memory."""
    kept: list[tuple[float, Image.Image]] = []
    stride = 1
    for count, frame in enumerate(frames):
        if count % stride == 0:
            kept.append(frame)
            if len(kept) == 2 * most:
                kept, stride = kept[::2], stride * 2
    return kept


def shrunk(image: Image.Image, most: int, remarks: list[str]) -> Image.Image:
    """The image, or a smaller one of at most `most` pixels."""
    size = within(*image.size, most)
    if size == image.size:
        return image
    note_scaling(image.size, size, remarks)
    return image.resize(size, Image.Resampling.BOX)


def note_scaling(size: tuple[int, int], smaller: tuple[int, int], remarks: list[str]) -> None:
    word = f"frames of {size[0]}x{size[1]} were read at {smaller[0]}x{smaller[1]}"
    if word not in remarks:
        remarks.append(word)


def within(width: int, height: int, most: int) -> tuple[int, int]:
    """The size, scaled down where it has more than `most` pixels."""
    scale = min(1.0, (most / (width * height)) ** 0.5)
    return (width, height) if scale == 1 else (max(1, int(width * scale)), max(1, int(height * scale)))


def to_rgb(image: Image.Image, remarks: list[str]) -> Image.Image:
    """An 8-bit sRGB image, rotated as its EXIF says, on white; remarks receive what was ignored.

    Raises ValueError for an image whose value range is unknown.
    """
    profile = image.info.get("icc_profile")
    if "exif" in image.info or image.format == "TIFF":
        image = _turned(image, remarks)
    if image.mode.startswith("I"):  # 16 bits a channel; Pillow's own conversion would cut instead of scale
        return Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8)
                               ).convert("RGB")
    if image.mode == "F":
        raise ValueError("a floating-point image, whose range is not known")
    if image.mode in ("RGBA", "LA", "P", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, "white")
        alpha = rgba.getchannel("A")
        rgba = _in_srgb(rgba.convert("RGB"), profile, remarks)
        rgba.putalpha(alpha)
        canvas.alpha_composite(rgba)
        return canvas.convert("RGB")
    return _in_srgb(image, profile, remarks)


def _turned(image: Image.Image, remarks: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except BROKEN_IMAGE:
        remarks.append("its broken EXIF was ignored")
        return image


_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}


def _in_srgb(image: Image.Image, profile: bytes | None, remarks: list[str]) -> Image.Image:
    """RGB, through the image's colour profile where it has a usable one."""
    if not profile and image.mode != "LAB":
        return image.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else ImageCms.createProfile("LAB")
        described = ImageCms.getProfileDescription(source) if profile else ""
        if image.mode in ("RGB", "L") and re.search(r"sRGB(?!.*linear)", described, re.I):
            return image.convert("RGB")
        if not profile or _SPACES.get(source.profile.xcolor_space) == image.mode:
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, AttributeError):
        remarks.append("its broken colour profile was ignored")
        return image.convert("RGB")
    if image.mode != "L":  # a grey image with a colour profile is common and loses nothing
        remarks.append(f"its colour profile is not for {image.mode} images and was ignored")
    return image.convert("RGB")
