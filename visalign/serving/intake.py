"""Requests as they come in: bounded bodies, JSON and multipart, and samples decoded beside each other."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.media.source_images import SEPARATOR, words_of
from visalign.rewards.web.wire import MASK
from visalign.serving.media import Decoded, Encoded, Written
from visalign.serving.settings import ServeSettings

SLOWEST_BODY = 60.0
"""Seconds in which a request must have come in."""
BODIES = 4
"""Requests of the largest size that may be in memory at once."""
PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
PICKLED = ("this is a Python pickle, which can run code when it is read, so it is not read here; send JSON with PNG in "
           "base64 to /v1/score")
FormOf = TypeVar("FormOf", bound=BaseModel)


class Refusal(Exception):
    """An answer other than the scores: a status, one sentence, and when to ask again."""

    def __init__(self, status: int, sentence: str, again: int | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.again = status, sentence, again


def full() -> Refusal:
    return Refusal(503, "the server has as many samples as it can hold; ask again", again=1)


def read_form(form: type[FormOf], data: bytes | Any) -> FormOf:
    """A form from JSON, or from what JSON held. Raises Refusal naming the first field that is wrong."""
    try:
        return form.model_validate_json(data) if isinstance(data, bytes | str) else form.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise Refusal(422, f"{place or 'the body'}: {first['msg'][:200]}") from None


class InMemory(MultiPartParser):
    """Parts stay in memory, which their number of bytes is bounded for already."""

    spool_max_size = 2**40


async def read_parts(request: Request, body: bytes, most: int) -> tuple[dict[str, bytes], dict[str, str]]:
    """(files, fields) of a multipart body. Raises Refusal."""
    async def once():
        yield body

    try:
        parser = InMemory(request.headers, once(), max_files=most, max_fields=16, max_part_size=len(body))
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refusal(422, f"the body is no multipart form ({' '.join(str(error).split())[:120]})") from None
    files: dict[str, bytes] = {}
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            files[name] = await value.read()
        else:
            fields[name] = value
    return files, fields


@dataclass
class Given:
    """One sample as it came. problem: why it has no media, where it has none."""

    prompt: str = ""
    media: Encoded | Decoded | Written | None = None
    sources: list[Encoded] = field(default_factory=list)
    mask: Encoded | None = None
    notes: dict[str, str] = field(default_factory=dict)
    seed: int | None = None
    group: str | None = None
    problem: str | None = None

    @property
    def pixels(self) -> int:
        """How many it decodes to, 0 for what decoding will refuse."""
        total = 0
        for each in filter(None, (self.media, self.mask, *self.sources)):
            try:
                total += each.pixels
            except UserError:
                continue
        return total

    def sample(self) -> Sample:
        """Raises UserError for what cannot be read."""
        if self.problem or self.media is None:
            raise UserError(self.problem or "the sample has neither image, video nor answer")
        remarks: list[str] = []
        known: dict[str, Any] = dict(self.notes) | {"remarks": remarks}
        if self.mask is not None:
            known[MASK] = self.mask.decoded(remarks)
        if self.sources or self.group is not None:  # never a path of this machine, whatever the client wrote
            known["source_prompt"] = in_one_word(self.group) if self.group is not None else words_of(self.prompt)
        return Sample(self.prompt, self.media.decoded(remarks), self.seed, known,
                      tuple(each.decoded(remarks) for each in self.sources))


def in_one_word(group: str) -> str:
    """A group's name in which nothing is read as the name of a file: at most a digest follows the separator."""
    words, separator, digest = group.rpartition(SEPARATOR)
    plain = separator and len(digest) == 12 and set(digest) <= set("0123456789abcdef") and SEPARATOR not in words
    return group if plain else group.replace(SEPARATOR, " ")


class Intake:
    """Counts the bytes, samples and pixels in the server, and decodes in as many threads as there are cores."""

    def __init__(self, settings: ServeSettings, threads: int, on_change: Callable[[int], None]):
        self.settings, self.on_change = settings, on_change
        self.samples = self.pixels = self.bytes = 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    async def work(self, do: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, do, *arguments)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """The request's body, counted while it is in use. Raises Refusal when it is too long, late, or a pickle."""
        body = bytearray()
        try:
            with anyio.move_on_after(SLOWEST_BODY) as clock:
                await self._read(request.stream(), body)
            if clock.cancelled_caught:
                raise Refusal(408, f"the request did not come in within {SLOWEST_BODY:g} s")
            yield bytes(body)
        finally:
            self.bytes -= len(body)

    async def _read(self, parts: AsyncIterator[bytes], body: bytearray) -> None:
        """Add the parts to `body`."""
        most = self.settings.max_bytes
        async for part in parts:
            if len(body) + len(part) > most:
                await self._drop(parts, Refusal(413, f"the request is larger than {most / 1e6:g} MB (--max-mb); send "
                                                     "fewer samples at once"))
            if self.bytes + len(part) > BODIES * most:
                await self._drop(parts, full())
            body += part
            self.bytes += len(part)
            if body[:2] in PICKLE:
                await self._drop(parts, Refusal(415, PICKLED))

    async def _drop(self, parts: AsyncIterator[bytes], refusal: Refusal) -> None:
        """Let the rest of a body pass, since many clients read no answer before they have sent all; then refuse."""
        dropped = 0
        async for part in parts:
            dropped += len(part)
            if dropped > BODIES * self.settings.max_bytes:
                break
        raise refusal

    def check_count(self, count: int) -> None:
        """Raise Refusal for a request of too many samples."""
        if count > self.settings.max_samples:
            raise Refusal(413, f"the request has {count} samples, {self.settings.max_samples} are allowed at once "
                               "(--max-samples)")

    def check_room(self, samples: int, pixels: int) -> None:
        """Raise Refusal where there is no room for so many more; an empty server takes what one request may hold."""
        most = int(self.settings.max_megapixels * 1e6)
        if pixels > most:
            raise Refusal(413, f"the images of one request have {pixels / 1e6:,.0f} megapixels, {most / 1e6:,.0f} are "
                               "allowed (--max-megapixels); send fewer at once")
        if self.samples and (self.samples + samples > self.settings.queue or self.pixels + pixels > most):
            raise full()

    @contextmanager
    def held(self, samples: int, pixels: int) -> Iterator[None]:
        """While these are in the server. Raises Refusal as `check_room` does."""
        self.check_room(samples, pixels)
        self._count(samples, pixels)
        try:
            yield
        finally:
            self._count(-samples, -pixels)

    def _count(self, samples: int, pixels: int) -> None:
        self.samples, self.pixels = self.samples + samples, self.pixels + pixels
        self.on_change(self.samples)

    def close(self) -> None:
        self._pool.shutdown()


def decoded_sample(given: Given) -> Sample | str:
    """The sample, or why there is none."""
    try:
        return given.sample()
    except UserError as error:
        return str(error)


def pixels_in(given: list[Given]) -> int:
    return sum(each.pixels for each in given)


def json_object(text: bytes, what: str) -> dict:
    """Raises Refusal for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refusal(422, f"{what} is no JSON object")
    return found
