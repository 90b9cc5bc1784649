"""The prompt and seed that programs write into the images and videos they generate, or into a text beside them.

Supported: AUTOMATIC1111's web UI and its forks (`parameters`, EXIF UserComment, NAME.txt), ComfyUI
(comfyui_graphs.py), InvokeAI, Midjourney, NovelAI, SwarmUI, Fooocus, Draw Things. All of it is untrusted data: nothing
is ever executed, and reading it never raises.
"""

import contextlib
import html
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visalign.data.comfyui_graphs import prompt_in_graph
from visalign.errors import UserError
from visalign.media.image_files import BROKEN_IMAGE, open_image
from visalign.media.kinds import is_video
from visalign.storage.text_files import decode_text, normal_form, printable


@dataclass(frozen=True)
class PromptFound:
    """What a file's metadata say of how it was made; prompt '' where only the seed is known."""

    prompt: str
    seed: int | None = None


def prompt_in_file(file: Path | bytes) -> PromptFound | None:
    """The prompt in an image's or video's own metadata; None where there is none that is understood."""
    texts = {key.lower(): value for key, value in _texts(file)}
    ordered = [key for key in _KEYS if key in texts] + [key for key in texts if key not in _KEYS]
    for key in ordered:
        embedded = prompt_in_text(key, texts[key])
        if embedded and embedded.prompt:
            seed = _seed_in(texts.get("comment", "")) if embedded.seed is None else embedded.seed
            return PromptFound(embedded.prompt, seed)
    return None


_KEYS = ("parameters", "invokeai_metadata", "sd-metadata", "dream", "prompt", "usercomment", "workflow", "comment",
         "description", "xmp", "imagedescription")


def prompt_in_text(key: str, text: str) -> PromptFound | None:
    """The prompt in one text; `key` is the text's name, in lower case."""
    text = re.sub(r"^(prompt|workflow)\s*:\s*(?=\{)", "", text.strip(), flags=re.I)  # ComfyUI in a WebP's EXIF
    if text[:1] in ("{", "["):
        return _of_json(_json(text))
    if _CUT.search(text) and (key in ("parameters", "usercomment", "comment", "imagedescription", "xmp")):
        return prompt_in_parameters(text)
    if key == "dream":
        quoted = re.match(r'"(.*)"(.*)', text, re.S)
        return _embedded(quoted[1], _number(r"-S\s*(\d+)", quoted[2])) if quoted else None
    marked = re.search(r"\sJob ID:|\s--[a-z]", text)
    if key == "description" or (key in ("xmp", "imagedescription", "comment") and marked):
        words = re.split(r"\s+Job ID:|\s+--(?=[a-zA-Z])", text)[0]
        return _embedded(words, _number(r"--seed\s+(\d+)", text))
    return _embedded(text, None) if key in ("parameters", "prompt") else None


_CUT = re.compile(r"^(?:Negative prompt:|Steps: *\d+(?:,|\s*$))", re.M)


def prompt_in_parameters(text: str) -> PromptFound:
    """The web UI's format: the prompt, then lines that begin with `Negative prompt:` and `Steps:`."""
    cut = _CUT.search(text)
    if cut is None:
        return PromptFound(normal_form(text))
    return PromptFound(normal_form(text[:cut.start()]), _number(r"\bSeed: *(\d+)", text[cut.start():]))


def seed_of(value) -> int | None:
    """A seed as tables and files store it (7, "7", 7.0); None for anything else or more than 64 bits."""
    if isinstance(value, float) and not value.is_integer():
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        seed = int(float(value)) if isinstance(value, str) and re.fullmatch(r"\d+\.0*", value.strip()) else int(value)
        return seed if 0 <= seed < 2**64 and not isinstance(value, bool) else None
    return None


def _number(pattern: str, text: str) -> int | None:
    found = re.search(pattern, text)
    return seed_of(found[1][:20]) if found else None


def _embedded(prompt, seed) -> PromptFound | None:
    if not isinstance(prompt, str) or not prompt.strip():
        return None
    number = seed_of(seed)
    return PromptFound(normal_form(printable(prompt)), number if number is None or number >= 0 else None)


def _json(text: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _seed_in(text: str) -> int | None:
    value = _json(text)
    return seed_of(value.get("seed")) if isinstance(value, dict) else None


def _of_json(value, depth: int = 4) -> PromptFound | None:
    """Recognised by its shape: every program has its own, and the same text occurs under several names."""
    if not isinstance(value, dict) or not depth:
        return None
    small = {str(key).lower(): each for key, each in value.items()}
    prompts = (small.get(key) for key in ("positive_prompt", "prompt", "c"))
    prompt = next((each for each in prompts if isinstance(each, str) and each.strip()), None)
    if isinstance(small.get("prompt"), list):  # InvokeAI 2: weighted parts
        prompt = ", ".join(part["prompt"] for part in small["prompt"]
                           if isinstance(part, dict) and isinstance(part.get("prompt"), str))
    if prompt and prompt.lstrip()[:1] == "{" and (inner := _of_json(_json(prompt), depth - 1)):
        return inner
    if prompt:
        return _embedded(prompt, small.get("seed"))
    for key in ("sui_image_params", "image", "prompt", "workflow"):
        inner = small.get(key)
        embedded = _of_json(_json(inner) if isinstance(inner, str) else inner, depth - 1)
        if embedded:
            return embedded
    found = prompt_in_graph(value)
    return _embedded(*found) if found else None


def _texts(file: Path | bytes) -> Iterator[tuple[str, str]]:
    """(name, text) of everything written in a file that may hold a prompt."""
    reader = _texts_of_video if is_video(file) else _texts_of_image
    with contextlib.suppress(*BROKEN_IMAGE):  # decoding the file reports what is wrong with it
        yield from reader(file)


def _texts_of_video(file: Path | bytes) -> Iterator[tuple[str, str]]:
    import av

    try:
        with av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file)) as container:
            yield from list(container.metadata.items())
    except av.FFmpegError:
        return


_DESCRIPTION, _MAKE, _MODEL, _EXIF, _COMMENT = 0x010E, 0x010F, 0x0110, 0x8769, 0x9286


def _texts_of_image(file: Path | bytes) -> Iterator[tuple[str, str]]:
    with open_image(file) as image:
        for key, value in image.info.items():
            if isinstance(value, str) and isinstance(key, str) and not key.startswith("XML:"):
                yield key, str(value)
        if isinstance(image.info.get("comment"), bytes):
            yield "comment", _decoded(image.info["comment"])
        yield from _xmp(image.info.get("xmp") or image.info.get("XML:com.adobe.xmp"))
        exif = image.getexif()
        for key, value in (("imagedescription", exif.get(_DESCRIPTION)), ("prompt", _graph(exif.get(_MODEL))),
                           ("workflow", _graph(exif.get(_MAKE))), ("usercomment", exif.get_ifd(_EXIF).get(_COMMENT))):
            if value:
                yield key, user_comment(value) if isinstance(value, bytes) else str(value)


def _graph(value) -> str | None:
    """ComfyUI puts its graphs into the tags of the camera's name."""
    return value if isinstance(value, str) and re.match(r"\w+\s*:\s*\{", value) else None


def _xmp(packet) -> Iterator[tuple[str, str]]:
    if not isinstance(packet, bytes | str):
        return
    text = _decoded(packet) if isinstance(packet, bytes) else packet
    found = re.search(r"<dc:description>.{0,400}?<rdf:li[^>]*>(.*?)</rdf:li>", text, re.S)
    if found:
        yield "xmp", html.unescape(found[1])
    found = re.search(r"<exif:UserComment>.{0,400}?<rdf:li[^>]*>(.*?)</rdf:li>", text, re.S)
    if found:
        yield "usercomment", html.unescape(found[1])


def user_comment(value: bytes) -> str:
    """EXIF's UserComment: eight bytes that name the encoding, then the text."""
    head, body = value[:8], value[8:]
    if head == b"UNICODE\0":
        if body.startswith((b"\xff\xfe", b"\xfe\xff")):
            return body.decode("utf-16", "replace")
        little = body[1::2].count(0) > body[::2].count(0)
        return body.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")
    return _decoded(body if head in (b"ASCII\0\0\0", b"\0" * 8, b"JIS\0\0\0\0\0") else value).strip("\0")


def _decoded(data: bytes) -> str:
    try:
        return decode_text(data.rstrip(b"\0"), "metadata")
    except UserError:
        return data.decode("latin-1")
