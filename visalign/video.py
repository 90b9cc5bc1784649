"""Clips on disk, through PyAV; and reading whatever a file is, picture or clip."""

import io
from pathlib import Path

from PIL import Image

from visalign.errors import UserError
from visalign.media import MAX_PIXELS, VIDEO_SUFFIXES, Video, read_picture


def read_media(data: bytes | str | Path, where: str, max_frames: int = 64) -> Image.Image | Video:
    """A picture, or a Video of at most `max_frames` evenly spaced frames from a clip or an animated picture.

    Raises UserError naming `where` for what cannot be read.
    """
    if _is_video(data):
        return read_video(data, where, max_frames)
    media = read_picture(data, where)
    return Video(media.evenly(max_frames), media.fps * min(1, max_frames / len(media.frames))) \
        if isinstance(media, Video) else media


def _is_video(data: bytes | str | Path) -> bool:
    if isinstance(data, bytes):
        return data[4:8] == b"ftyp" or data[:4] in (b"\x1a\x45\xdf\xa3", b"RIFF") and data[8:12] != b"WEBP"
    return Path(data).suffix.lower() in VIDEO_SUFFIXES


def read_video(data: bytes | str | Path, where: str, max_frames: int = 64) -> Video:
    """At most `max_frames` evenly spaced frames and their rate; memory does not grow with the clip's length.

    Raises UserError naming `where` when the file is missing, has no picture stream, no frame, or too large frames.
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
                    kept.append((float(frame.time or count), frame.to_image()))
                    if len(kept) == 2 * max_frames:
                        kept, stride = kept[::2], stride * 2
                count += 1
    except FileNotFoundError:
        raise UserError(f"{where}: there is no video file {data}") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"{where}: {name} is not a readable video ({' '.join(str(error).split())[:120]})") from None
    if not kept:
        raise UserError(f"{where}: {name} holds no frame")
    frames = Video([image for _, image in kept], 0).evenly(max_frames)
    seconds = kept[-1][0] - kept[0][0]
    shown_rate = (len(frames) - 1) / seconds if seconds > 0 and len(frames) > 1 else rate or 1.0
    return Video(frames, shown_rate)


# H.264 for players, VP9 for browsers, FFV1 where every bit counts
CODECS = {"mp4": ("libx264", "yuv420p", {"crf": "16"}), "webm": ("libvpx-vp9", "yuv420p", {"crf": "20"}),
          "matroska": ("ffv1", "bgr0", {})}


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


def to_webp(video: Video) -> bytes:
    """The clip as an animated WebP, which every browser plays in an <img>; still frames in a row are merged."""
    buffer = io.BytesIO()
    first, *rest = video.frames
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / video.fps), loop=0, quality=85)
    return buffer.getvalue()
