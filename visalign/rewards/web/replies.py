"""Reading a server's replies: bounded in size, compressed or not, and without the key."""

import json
import re
import zlib
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

LEAST_SECRET = 4
"""Shorter keys are placeholders such as "x"; removing them would destroy every text."""
WINDOWS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
"""zlib's names for a packing; servers send deflate with its header or without."""


class Unreadable(Exception):
    """The reply is not what was asked for; asking again may help."""


async def read_body(response: httpx.Response, most: int) -> bytes:
    """The body, unpacked. Raises Unreadable when it is longer than `most` bytes, packed or unpacked."""
    raw = bytearray()
    async for part in response.aiter_raw():
        raw += part
        if len(raw) > most:
            raise Unreadable(f"the reply is longer than {most} bytes")
    return unpacked(bytes(raw), response.headers.get("content-encoding", ""), most)


def unpacked(raw: bytes, encoding: str, most: int) -> bytes:
    """Bytes that were sent as gzip or deflate. Raises Unreadable for more than `most`, or another packing."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return raw
    if encoding not in WINDOWS:
        raise Unreadable(f"the reply is packed as {encoding[:20]}, which was not asked for")
    for bits in WINDOWS[encoding]:
        unpacker = zlib.decompressobj(bits)
        try:
            found = unpacker.decompress(raw, most + 1)
        except zlib.error:
            continue
        if len(found) > most:
            raise Unreadable(f"the reply unpacks to more than {most} bytes")
        return found
    raise Unreadable(f"the reply is not packed as {encoding}, as it says")


def parsed(body: bytes, key: str | None, wanted: str) -> Any:
    """The JSON of a body. Raises Unreadable with its first words, and what was wanted, when it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable(f"the body is no {wanted}: {words_of_page(body, key)[:80]!r}") from None


def words_of_page(body: bytes, key: str | None) -> str:
    """The message in an error's body, without the key, or the page without its markup."""
    text = body[:20_000].decode("utf-8", "replace")
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    if isinstance(said, str):
        text = said
    return plain_text(without_key(re.sub(r"<[^<>]{0,200}>", " ", text) if text.lstrip()[:1] == "<" else text, key))


def plain_text(text: str) -> str:
    """On one line, without what cannot be encoded in UTF-8."""
    return " ".join(text.encode("utf-8", "replace").decode().split())


def without_key(text: str, key: str | None) -> str:
    """The text with the key taken out: some servers repeat what they refuse, and a model may repeat its input."""
    return text.replace(key, "***") if key and len(key) >= LEAST_SECRET else text


def seconds_of(header: str | None) -> float | None:
    """The wait in Retry-After, given in seconds or as a date; None without one."""
    if not header:
        return None
    try:
        wait = float(header)
    except ValueError:
        try:
            wait = (parsedate_to_datetime(header) - datetime.now(timezone.utc)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, wait) if wait == wait else None
