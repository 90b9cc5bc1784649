"""Video files, through PyAV; and reading and writing any media file, image or video."""

import functools
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from visalign.errors import UserError
from visalign.media.answers import Answer
from visalign.media.image_files import (
    HELD_PIXELS,
    decode_image,
    is_animated,
    name_of,
    note_scaling,
    read_image,
    shrunk,
    thinned,
    within,
)
from visalign.media.kinds import in_order, is_hidden, is_image_name, is_video
from visalign.media.samples import MAX_PIXELS, Media, Video, grid, looping, to_bytes
from visalign.storage.files import write_atomically
from visalign.storage.text_files import read_text


def read_media(data: bytes | str | Path, where: str, max_frames: int = 64, remarks: list[str] | None = None) -> Media:
    """An image, or a Video of at most `max_frames` evenly spaced frames.

    A video is a video file, an animated image, or a folder of frames in the order of their names (see
    `write_frames`). remarks: receives a sentence for everything that was not used as it is. Raises UserError naming
    `where` for what cannot be read.
    """
    remarks = [] if remarks is None else remarks
    if not isinstance(data, bytes) and Path(data).is_dir():
        return read_frames(Path(data), where, max_frames, remarks)
    reader = read_video if is_video(data) else decode_image
    return reader(data, where, max_frames, remarks)


def modality_of(file: Path) -> str:
    """`video` for a video, `image` for an image, by the file's content. Raises UserError when it is neither."""
    return "video" if file.is_dir() or is_video(file) or is_animated(file) else "image"


FRAMES_FILE = "frames.json"
"""The file that makes a folder of images one video: {"fps": 8}."""


def read_frames(folder: Path, where: str, max_frames: int = 64, remarks: list[str] | None = None) -> Video:
    """The video in a folder of frames with a frames.json. Raises UserError naming what is wrong with it."""
    remarks = [] if remarks is None else remarks
    try:
        fps = float(json.loads(read_text(folder / FRAMES_FILE, where))["fps"])
    except (UserError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f'{where}: {folder} has no {FRAMES_FILE} that says {{"fps": frames a second}}') from None
    files = sorted((p for p in folder.iterdir() if is_image_name(p) and not is_hidden(p.name)),
                   key=lambda file: in_order(file.name))
    if not files or not 0 < fps < 1000:
        raise UserError(f"{where}: {folder} holds {len(files)} frames at {fps:g} a second")
    kept = [files[i] for i in np.linspace(0, len(files) - 1, min(len(files), max_frames)).round().astype(int)]
    frames = [shrunk(read_image(file, f"{where}: {file.name}"), HELD_PIXELS // max_frames, remarks) for file in kept]
    sizes = {frame.size for frame in frames}
    if len(sizes) > 1:
        raise UserError(f"{where}: the frames in {folder} differ in size ({sorted(sizes)})")
    return Video(frames, _rate(fps, len(files), len(frames)))


def _rate(fps: float, count: int, kept: int) -> float:
    """The rate at which `kept` evenly spaced frames of `count` last as long as all of them."""
    return fps if kept == count or kept < 2 else fps * (kept - 1) / (count - 1)


def read_video(data: bytes | str | Path, where: str, max_frames: int = 64, remarks: list[str] | None = None) -> Video:
    """At most `max_frames` evenly spaced frames and their rate; memory does not grow with the video's length.

    Frames are rotated as the file says and their pixels made square; a variable rate becomes constant; sound and
    cover images are ignored. Raises UserError naming `where` when the file is missing, has no image stream, no
    frame, or too large frames.
    """
    import av

    name = name_of(data, "video")
    try:
        with av.open(io.BytesIO(data) if isinstance(data, bytes) else str(data)) as container:
            stream = container.streams.best("video") or next(iter(container.streams.video), None)
            if stream is None:
                raise UserError(f"{where}: {name} holds no image stream, only {_kinds(container)}")
            stream.thread_type = "AUTO"
            if stream.width * stream.height > MAX_PIXELS:
                raise UserError(f"{where}: {name} has frames of {stream.width}x{stream.height}, more than "
                                f"{MAX_PIXELS:,} pixels; refused as a possible decompression bomb")
            rate = float(stream.average_rate or 0)
            kept = thinned(_frames(container, stream, rate, HELD_PIXELS // (2 * max_frames),
                                   [] if remarks is None else remarks), max_frames)
    except FileNotFoundError:
        raise UserError(f"{where}: there is no video file {name}") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{where}: {name} is not a readable video ({' '.join(str(error).split())[:120]})") from None
    if not kept:
        raise UserError(f"{where}: {name} holds no frame")
    frames = evenly_in_time(kept, min(max_frames, len(kept)))
    seconds = kept[-1][0] - kept[0][0]
    shown_rate = (len(frames) - 1) / seconds if seconds > 0 and len(frames) > 1 else rate or 1.0
    return Video(frames, shown_rate)


def _kinds(container) -> str:
    return " and ".join(sorted({stream.type for stream in container.streams})) or "nothing"


def _frames(container, stream, rate: float, most: int, remarks: list[str]) -> Iterator[tuple[float, Image.Image]]:
    """(seconds, image) of every frame, all of one size: upright, in square pixels, at most `most` of them."""
    size = None
    for count, frame in enumerate(container.decode(stream)):
        if size is None:
            shown = _square(frame.width, frame.height, stream.sample_aspect_ratio)
            size = within(*shown, most)
            if size != shown:
                note_scaling(shown, size, remarks)
        image = frame.to_image() if size == (frame.width, frame.height) else \
            frame.to_image(width=size[0], height=size[1], interpolation="AREA")
        turned = image.rotate(frame.rotation, expand=True) if frame.rotation else image  # phones record sideways
        yield count / rate if frame.time is None and rate else float(frame.time or count), turned


def _square(width: int, height: int, ratio) -> tuple[int, int]:
    """The size in square pixels; `ratio` is a pixel's width by its height (None or 0 where unknown)."""
    shape = float(ratio or 1)
    if not 0.05 < shape < 20:
        shape = 1.0
    return (round(width * shape), height) if shape > 1 else (width, round(height / shape))


def evenly_in_time(frames: list[tuple[float, Image.Image]], count: int) -> list[Image.Image]:
    """`count` of the (seconds, frame) pairs, evenly spaced in time: at each moment the nearest frame."""
    times = np.array([moment for moment, _ in frames])
    moments = np.linspace(times[0], times[-1], count)
    return [frames[int(np.abs(times - moment).argmin())][1] for moment in moments]


# H.264 for players, VP9 for browsers, FFV1 for lossless storage
CODECS = {"mp4": ("libx264", "yuv420p", {"crf": "16"}), "webm": ("libvpx-vp9", "yuv420p", {"crf": "20"}),
          "matroska": ("ffv1", "bgr0", {})}
SUFFIXES = {"matroska": ".mkv"}


def to_video_bytes(video: Video, container: str = "mp4") -> bytes:
    """The video as `mp4`, `webm` or lossless `matroska`; the first two drop an odd last row or column."""
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
    """(suffix, content) of a file: PNG for an image, UTF-8 for a text; for a video the most widely playable format, or
    a lossless one."""
    if isinstance(media, Answer):
        return ".txt", media.encode("utf-8", "backslashreplace")
    if not isinstance(media, Video):
        return ".png", to_bytes(media)
    container = "matroska" if lossless else common_container()
    return SUFFIXES.get(container, f".{container}"), to_video_bytes(media, container)


VIDEO_FORMATS = ("mp4", "webm", "mkv", "gif", "frames")


def write_media(media: Media, place: Path, video_format: str | None = None) -> Path:
    """Write atomically to `place` plus the format's suffix, and return that path.

    video_format: one of VIDEO_FORMATS (None: the most widely playable); `mkv` is lossless, `frames` a folder of PNGs,
    and GIF counts time in hundredths of a second.
    """
    if not isinstance(media, Video) or video_format is None:
        suffix, content = media_file(media)
    elif video_format == "frames":
        temporary = place.with_name(f".tmp-{place.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            write_frames(media, temporary)
            os.replace(temporary, place)
        except OSError:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return place
    else:
        container = {"mkv": "matroska"}.get(video_format, video_format)
        content = to_gif(media) if video_format == "gif" else to_video_bytes(media, container)
        suffix = f".{video_format}"
    file = place.with_name(place.name + suffix)
    write_atomically(file, content)
    return file


def write_frames(video: Video, folder: Path) -> None:
    """The video as a folder of PNGs that `read_media` reads back exactly."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(video.frames):
        write_atomically(folder / f"{number:05d}.png", to_bytes(frame))
    write_atomically(folder / FRAMES_FILE, (json.dumps({"fps": video.fps}) + "\n").encode())


def to_gif(video: Video) -> bytes:
    """The video as an animated GIF of 256 colours."""
    buffer = io.BytesIO()
    first, *rest = video.frames
    first.save(buffer, "GIF", save_all=True, append_images=rest, duration=round(100 / video.fps) * 10, loop=0)
    return buffer.getvalue()


def to_webp(video: Video) -> bytes:
    """The video as an animated WebP, which every browser plays in an <img>; consecutive equal frames are merged."""
    buffer = io.BytesIO()
    first, *rest = video.frames
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / video.fps), loop=0, quality=85)
    return buffer.getvalue()


SHEET_MARK = "visalign contact sheet"
"""The mark in our contact sheets, so that none is taken for a generation."""


def save_sheet(rows: list[tuple[str, list[Media]]], file: Path, cell: int = 96, label_width: int = 180) -> None:
    """Labelled rows of images and strips of videos as a PNG; where there are videos, a looping WebP beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    mark = PngInfo()
    mark.add_text("Software", SHEET_MARK)
    buffer = io.BytesIO()
    grid(rows, cell, label_width).save(buffer, "PNG", pnginfo=mark)
    write_atomically(file, buffer.getvalue())
    if any(isinstance(media, Video) for _, items in rows for media in items):
        write_atomically(file.with_suffix(".webp"), to_webp(looping(rows, cell, label_width)))
