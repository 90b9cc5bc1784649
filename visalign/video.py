"""Clips on disk, through PyAV; and reading and writing whatever a file is, picture or clip."""

import functools
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from visalign.errors import UserError
from visalign.media import (
    IMAGE_SUFFIXES,
    MAX_PIXELS,
    VIDEO_SUFFIXES,
    Media,
    Video,
    grid,
    looping,
    read_image,
    read_picture,
    to_bytes,
)
from visalign.runs import write_atomically


def read_media(data: bytes | str | Path, where: str, max_frames: int = 64) -> Media:
    """A picture, or a Video of at most `max_frames` evenly spaced frames.

    A clip is a video file, an animated picture, or a folder of frames in the order of their names (see
    `write_frames`). Raises UserError naming `where` for what cannot be read.
    """
    if not isinstance(data, bytes) and Path(data).is_dir():
        return read_frames(Path(data), where, max_frames)
    if _is_video(data):
        return read_video(data, where, max_frames)
    media = read_picture(data, where)
    return Video(media.evenly(max_frames), media.fps * min(1, max_frames / len(media.frames))) \
        if isinstance(media, Video) else media


def _is_video(data: bytes | str | Path) -> bool:
    if isinstance(data, bytes):
        return data[4:8] == b"ftyp" or data[:4] in (b"\x1a\x45\xdf\xa3", b"RIFF") and data[8:12] != b"WEBP"
    return Path(data).suffix.lower() in VIDEO_SUFFIXES


FRAMES_FILE = "frames.json"
"""What makes a folder of pictures one clip: {"fps": 8}."""


def read_frames(folder: Path, where: str, max_frames: int = 64) -> Video:
    """The clip in a folder of frames with a frames.json. Raises UserError naming what is wrong with it."""
    try:
        fps = float(json.loads((folder / FRAMES_FILE).read_text())["fps"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f'{where}: {folder} has no {FRAMES_FILE} that says {{"fps": frames a second}}') from None
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files or not 0 < fps < 1000:
        raise UserError(f"{where}: {folder} holds {len(files)} frames at {fps:g} a second")
    kept = [files[i] for i in np.linspace(0, len(files) - 1, min(len(files), max_frames)).round().astype(int)]
    frames = [read_image(file, f"{where}: {file.name}") for file in kept]
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        raise UserError(f"{where}: the frames in {folder} differ in size ({sorted(sizes)})")
    return Video(frames, _rate(fps, len(files), len(frames)))


def _rate(fps: float, count: int, kept: int) -> float:
    """The rate at which `kept` evenly spaced frames of `count` last as long as all of them."""
    return fps if kept == count or kept < 2 else fps * (kept - 1) / (count - 1)


def read_video(data: bytes | str | Path, where: str, max_frames: int = 64) -> Video:
    """At most `max_frames` evenly spaced frames and their rate; memory does not grow with the clip's length.

    Frames are turned as the file says; a variable rate becomes an even one; sound is ignored. Raises UserError naming
    `where` when the file is missing, has no picture stream, no frame, or too large frames.
    """
    import av

    name = "the video bytes" if isinstance(data, bytes) else str(data)
    kept: list[tuple[float, Image.Image]] = []
    stride, count, rate = 1, 0, 0.0
    try:
        with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
            if not container.streams.video:
                raise UserError(f"{where}: {name} holds no picture stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            if stream.width * stream.height * 2 * max_frames > 8 * MAX_PIXELS:
                raise UserError(f"{where}: {name} has frames of {stream.width}x{stream.height}, too large to hold "
                                f"{max_frames} of them; refused as a possible decompression bomb")
            rate = float(stream.average_rate or 0)
            for frame in container.decode(stream):
                if count % stride == 0:
                    kept.append((count / rate if frame.time is None and rate else float(frame.time or count),
                                 upright(frame)))
                    if len(kept) == 2 * max_frames:
                        kept, stride = kept[::2], stride * 2
                count += 1
    except FileNotFoundError:
        raise UserError(f"{where}: there is no video file {data}") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{where}: {name} is not a readable video ({' '.join(str(error).split())[:120]})") from None
    if not kept:
        raise UserError(f"{where}: {name} holds no frame")
    frames = evenly_in_time(kept, min(max_frames, len(kept)))
    seconds = kept[-1][0] - kept[0][0]
    shown_rate = (len(frames) - 1) / seconds if seconds > 0 and len(frames) > 1 else rate or 1.0
    return Video(frames, shown_rate)


def upright(frame) -> Image.Image:
    """The frame turned as the file's display matrix says (phones film sideways)."""
    image = frame.to_image()
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def evenly_in_time(frames: list[tuple[float, Image.Image]], count: int) -> list[Image.Image]:
    """`count` of (seconds, frame) at even distances in time: at each moment the frame nearest to it."""
    times = np.array([moment for moment, _ in frames])
    moments = np.linspace(times[0], times[-1], count)
    return [frames[int(np.abs(times - moment).argmin())][1] for moment in moments]


# H.264 for players, VP9 for browsers, FFV1 where every bit counts
CODECS = {"mp4": ("libx264", "yuv420p", {"crf": "16"}), "webm": ("libvpx-vp9", "yuv420p", {"crf": "20"}),
          "matroska": ("ffv1", "bgr0", {})}
SUFFIXES = {"matroska": ".mkv"}


def to_video_bytes(video: Video, container: str = "mp4") -> bytes:
    """The clip as `mp4`, `webm` or lossless `matroska`; the first two drop an odd last row or column."""
    from fractions import Fraction

    import av

    codec, pixel_format, options = CODECS[container]
    width, height = video.frames[0].size
    if pixel_format == "yuv420p":
        width, height = width - width % 2, height - height % 2
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=Fraction(video.fps).limit_denominator(1001), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        for image in video.frames:
            for packet in stream.encode(av.VideoFrame.from_image(image.convert("RGB").crop((0, 0, width, height)))):
                output.mux(packet)
        for packet in stream.encode():
            output.mux(packet)
    return buffer.getvalue()


@functools.cache
def common_container() -> str:
    """`mp4` with H.264, which everything plays; `webm` where PyAV was built without an H.264 encoder."""
    import av

    return "mp4" if CODECS["mp4"][0] in av.codecs_available else "webm"


def media_file(media: Media, lossless: bool = False) -> tuple[str, bytes]:
    """(suffix, content) of a file: PNG for a picture; for a clip what everything plays, or every bit of it."""
    if not isinstance(media, Video):
        return ".png", to_bytes(media)
    container = "matroska" if lossless else common_container()
    return SUFFIXES.get(container, f".{container}"), to_video_bytes(media, container)


CLIP_FORMATS = ("mp4", "webm", "mkv", "gif", "frames")


def write_media(media: Media, place: Path, clip_format: str | None = None) -> Path:
    """Write to `place` and a suffix of its own, whole or not at all; returns where.

    clip_format: one of CLIP_FORMATS (None: what everything plays); `mkv` is lossless, `frames` a folder of PNGs, and
    GIF counts time in hundredths of a second.
    """
    if not isinstance(media, Video) or clip_format is None:
        suffix, content = media_file(media)
    elif clip_format == "frames":
        temporary = place.with_name(f".tmp-{place.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        write_frames(media, temporary)
        os.replace(temporary, place)
        return place
    else:
        container = {"mkv": "matroska"}.get(clip_format, clip_format)
        content = to_gif(media) if clip_format == "gif" else to_video_bytes(media, container)
        suffix = f".{clip_format}"
    write_atomically(place.with_suffix(suffix), content)
    return place.with_suffix(suffix)


def write_frames(video: Video, folder: Path) -> None:
    """The clip as a folder of PNGs that `read_media` reads back bit by bit."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(video.frames):
        frame.save(folder / f"{number:05d}.png")
    (folder / FRAMES_FILE).write_text(json.dumps({"fps": video.fps}) + "\n")


def to_gif(video: Video) -> bytes:
    """The clip as an animated GIF of 256 colours."""
    buffer = io.BytesIO()
    first, *rest = video.frames
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(100 / video.fps) * 10, loop=0)
    return buffer.getvalue()


def to_webp(video: Video) -> bytes:
    """The clip as an animated WebP, which every browser plays in an <img>; still frames in a row are merged."""
    buffer = io.BytesIO()
    first, *rest = video.frames
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / video.fps), loop=0, quality=85)
    return buffer.getvalue()


def save_sheet(rows: list[tuple[str, list[Media]]], file: Path, cell: int = 96, label_width: int = 180) -> None:
    """Labelled rows of pictures and strips of clips as a PNG; where there are clips, beside it a looping WebP."""
    file.parent.mkdir(parents=True, exist_ok=True)
    grid(rows, cell, label_width).save(file)
    if any(isinstance(media, Video) for _, items in rows for media in items):
        file.with_suffix(".webp").write_bytes(to_webp(looping(rows, cell, label_width)))
