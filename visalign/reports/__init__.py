"""Self-contained HTML pages: nothing in them is fetched, and every text from data is escaped."""

import base64
import functools
import io
import re
from collections.abc import Iterable
from pathlib import Path

import jinja2
from PIL import Image

from visalign.media.answers import Answer
from visalign.media.samples import Media, Video
from visalign.media.video_files import to_webp

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, folder: Path = TEMPLATES, **values) -> bytes:
    """A template of a folder filled in; every text is escaped, and a value that is missing is an error."""
    return _environment(folder).get_template(template).render(**values).encode("utf-8", "backslashreplace")


@functools.cache
def _environment(folder: Path) -> jinja2.Environment:
    """Templates of a folder, each compiled once."""
    return jinja2.Environment(loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined)


def data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_uri(image: Image.Image, side: int = 256) -> str:
    """An image as a data URI, scaled down to `side` at most."""
    small = image.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=88)
    return data_uri("image/webp", buffer.getvalue())


def media_uri(media: Media, side: int = 192, frames: int = 16) -> str:
    """An image or video as a data URI, scaled down to `side` at most; a video becomes an animated image."""
    if not isinstance(media, Video):
        return image_uri(media, side)
    shown = [frame.copy() for frame in media.evenly(frames)]
    for frame in shown:
        frame.thumbnail((side, side))
    return data_uri("image/webp", to_webp(Video(shown, media.fps * len(shown) / len(media.frames))))


LONGEST_SHOWN = 1200
"""Characters of a text that a page shows."""
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown_text(text: str, most: int = LONGEST_SHOWN) -> str:
    """The beginning of a text, with characters that are not seen, or turn others around, written as \\x1b."""
    seen = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text[:most].replace("\r\n", "\n"))
    return seen if len(text) <= most else f"{seen} ... ({len(text):,} characters)"


def shown_media(media: Media, side: int = 192) -> dict[str, str]:
    """What the templates' `shown` takes: {"uri": of an image or video} or {"text": of an answer}."""
    return {"text": shown_text(media)} if isinstance(media, Answer) else {"uri": media_uri(media, side)}


def source_uris(sources: Iterable[Image.Image], side: int = 144) -> list[str]:
    """Data URIs of the source images of an edit, which pages show before its results; [] of other samples."""
    return [image_uri(source, side) for source in sources]


def svg(figure) -> str:
    """A matplotlib figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return data_uri("image/svg+xml", buffer.getvalue())
