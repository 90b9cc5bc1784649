"""Which files are images and which are videos: decided here, for every command and for the demo."""

import functools
import importlib.util
import os
import re
from pathlib import Path

from PIL import Image

UNSAFE = frozenset({"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "IPTC"})
"""Formats that Pillow knows but are not opened: programs for Ghostscript, or names without a decoder."""
ANIMATED = frozenset({"GIF", "PNG", "WEBP", "AVIF", "FLI"})
"""Formats in which several images are frames in time; elsewhere they are pages or layers."""
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".m2t", ".mpg", ".mpeg", ".m2v",
    ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".ogv", ".mxf", ".vob", ".y4m", ".ivf", ".nut", ".dv", ".h264",
    ".264", ".hevc", ".h265", ".265"})
"""Files that PyAV decodes."""
BESIDE = frozenset({
    ".txt", ".caption", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".yaml", ".yml", ".toml", ".md", ".html",
    ".log", ".db", ".ini"})
"""Files that usually accompany images; skipped without a notice."""
NOT_READ = {".jxl": "install pillow-jxl-plugin to read it"} | dict.fromkeys(
    (".svg", ".svgz", ".eps", ".ps", ".pdf", ".ai", ".wmf", ".emf"), "a drawing; export it as PNG") | dict.fromkeys(
    (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".exr", ".hdr"), "export it as PNG or TIFF")
"""Images that are not read here, and what to do instead."""
_STILL_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_VIDEO_STARTS = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\0\0\x01\xba", b"\0\0\x01\xb3",
                b"YUV4MPEG2", b"DKIF")


@functools.cache
def image_formats() -> tuple[str, ...]:
    """What Pillow may open here, with its plug-ins for HEIF and, if installed, JPEG XL."""
    import pillow_heif
    from PIL import PngImagePlugin

    Image.init()
    pillow_heif.register_heif_opener()
    if importlib.util.find_spec("pillow_jxl"):
        importlib.import_module("pillow_jxl")
    PngImagePlugin.MAX_TEXT_CHUNK = 16 * 2**20  # a ComfyUI workflow may be longer than Pillow's limit
    return tuple(name for name in Image.OPEN if name not in UNSAFE)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the files that Pillow may open here."""
    formats = image_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def is_image_name(path: str | Path) -> bool:
    return Path(path).suffix.lower() in image_suffixes()


def is_video_name(path: str | Path) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def may_be_video(path: Path) -> bool:
    """By its name alone: a video, a GIF, a folder of frames. An animated WebP cannot be told apart."""
    return is_video_name(path) or path.suffix.lower() in ("", ".gif")


def is_video(data: bytes | str | Path) -> bool:
    """Whether PyAV should read it: by its suffix, else by its first bytes."""
    if not isinstance(data, bytes):
        if is_video_name(data):
            return True
        try:
            with open(data, "rb") as file:
                data = file.read(400)
        except (OSError, ValueError):  # whoever reads it reports it
            return False
    if data[4:8] == b"ftyp":
        return data[8:12] not in _STILL_BRANDS
    if data[:4] == b"RIFF":
        return data[8:12] == b"AVI "
    transport = data[:1] == b"\x47" and data[188:189] == b"\x47" and data[376:377] == b"\x47"
    return transport or data.startswith(_VIDEO_STARTS)


def is_hidden(name: str) -> bool:
    """A system file rather than a user's: names that begin with a dot, thumbnails, folder settings."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")


def in_order(name: str | Path) -> list:
    """A sort key that puts frame_2 before frame_10."""
    return [(int(part), "") if part.isdecimal() and part.isascii() else (-1, part)
            for part in re.split(r"(\d+)", os.fspath(name))]
