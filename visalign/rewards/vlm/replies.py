"""Reading a server's replies: bounded in size, compressed or not, and without the key."""

import json
import math
import re
import zlib
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.forms import Form, form_shown
from visalign.rewards.vlm.questions import Answer

LEAST_SECRET = 4
"""Shorter keys are placeholders such as "x"; removing them would destroy every text."""
WINDOWS = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}
"""zlib's names for a packing; servers send deflate with its header or without."""


class Unreadable(Exception):
    """The reply is not a chat completion; asking again may help."""


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


def parsed(body: bytes, key: str | None) -> Any:
    """The JSON of a body. Raises Unreadable with its first words when it is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable(f"the body is no chat completion: {words_of_page(body, key)[:80]!r}") from None


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


def read_completion(body: bytes, form: Form | None, max_tokens: int, key: str | None) -> Answer | Failure:
    """The answer of a chat completion. Raises Unreadable for anything else."""
    said = parsed(body, key)
    try:
        choice = said["choices"][0]
        message = choice["message"]
        text = without_key(text_of(message.get("content")), key)
        refusal, finish = message.get("refusal"), choice.get("finish_reason")
        thoughts = message.get("reasoning_content") or message.get("reasoning")
    except (LookupError, TypeError, AttributeError):
        raise Unreadable(f"the body is no chat completion: {words_of_page(body, key)[:120]!r}") from None
    if refusal:
        return Failure(f"the model refused: {plain_text(without_key(str(refusal), key))[:120]}")
    if finish in ("length", "max_tokens"):
        where = "while the model was still reasoning" if thoughts and not text.strip() else "before it ended"
        return Failure(f"the answer was cut off at max_tokens ({max_tokens}) {where}; raise max_tokens"
                       + (f": {form_shown(text)}" if text.strip() else ""))
    if finish == "content_filter":
        return Failure("the server's filter of content held the answer back")
    if not text.strip():
        return Failure("the whole answer is reasoning, nothing follows it; raise max_tokens, or turn the model's "
                       "reasoning off" if thoughts else "the model's answer is empty")
    chances, note = chances_of(choice.get("logprobs"), text, form)
    return Answer(text, chances, note)


def text_of(content: Any) -> str:
    """A message's words, given as one text or as a list of parts. Raises TypeError for anything else."""
    if content is None:
        return ""
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))
    if not isinstance(content, str):
        raise TypeError
    return content.encode("utf-8", "replace").decode()


def chances_of(told: Any, text: str, form: Form | None) -> tuple[dict[str, float] | None, str | None]:
    """(probability of each of the form's choices at the answer's place, a note where they are not usable)."""
    tokens = told.get("content") if isinstance(told, dict) else None
    if form is None or not tokens:
        return None, None
    try:
        place = form.token(text, [token["token"] for token in tokens])
        if place is None:
            return None, None
        token = tokens[place]
        options = {option["token"]: probability(option["logprob"])
                   for option in [*(token.get("top_logprobs") or ()), token]}
    except (LookupError, TypeError, AttributeError, ValueError):
        return None, "the server's log-probabilities are not usable, so the answer's words count"
    found = {str(choice): sum(p for option, p in options.items() if option.strip() == str(choice))
             for choice in form.choices}
    if sum(found.values()) > 1.01:
        return None, "the server's log-probabilities add to more than 1, so the answer's words count"
    return found, None


def probability(logprob: Any) -> float:
    """exp of a log-probability. Raises ValueError or TypeError for anything else."""
    if isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise TypeError
    if not logprob <= 0.01:  # NaN among others
        raise ValueError
    return math.exp(min(logprob, 0.0))
