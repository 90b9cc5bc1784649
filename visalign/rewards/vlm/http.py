"""Asking an OpenAI-compatible chat endpoint (vLLM, SGLang, hosted)."""

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import anyio
import httpx
from PIL import Image

from visalign.errors import nearest
from visalign.media.samples import to_bytes
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.dialect import Dialect, hint
from visalign.rewards.vlm.questions import Question, Reply
from visalign.rewards.vlm.replies import COMPLETION, read_completion
from visalign.rewards.web.address import key_in, v1_hint
from visalign.rewards.web.calling import LOOK, WORTH_RETRYING, Busy, Caller
from visalign.rewards.web.replies import (
    Unreadable,
    parsed,
    plain_text,
    read_body,
    seconds_of,
    without_key,
    words_of_page,
)

REFUSALS = frozenset({400, 422, 501})
LEAST_BODY, BODY_OF_TOKEN = 4 << 20, 4 << 10
"""Bytes allowed in a reply, and further bytes per token (20 log-probabilities take about 3 kB)."""
SMALLER = (None, 2048, 1024, 512)
"""Longest sides of the JPEGs tried in turn when a server says that a request is too large."""


@dataclass(kw_only=True)
class HttpAsker(Caller):
    """Sends questions to `url`/chat/completions."""

    model: str
    max_tokens: int
    temperature: float
    logprobs: bool

    when_slow: ClassVar[str] = "raise timeout, or lower concurrency or max_tokens"

    def __post_init__(self):
        self.dialect = Dialect()
        self._offered: str | None = None

    def check(self, who: str) -> None:
        """Raise UserError when there is no server, or when it refuses the key; scoring shows the rest."""
        self.look("/models", who)

    def ask(self, questions: list[Question], on_answer: Callable[[int, Reply], None]) -> list[Reply | Failure]:
        return self.every(len(questions), lambda client, i: self._agreeing(client, questions[i]), on_answer)

    async def _agreeing(self, client: httpx.AsyncClient, question: Question) -> Reply | Failure:
        """Ask in the server's dialect, learnt from its refusals, with images no larger than it takes."""
        smaller, note = iter(SMALLER), None
        images = [data_url(image) for image in question.images]
        most = LEAST_BODY + BODY_OF_TOKEN * self.max_tokens
        while True:
            dialect = self.dialect
            body = self._body(question, images, dialect)
            status, headers, reply = await self.send(client, "/chat/completions", json.dumps(body).encode(), most)
            key = key_in(self.key_env)
            said = words_of_page(reply, key)
            if status == 413 and (side := next(smaller, 0)) != 0:
                images = [data_url(image, side) for image in question.images]
                note = (f"the server takes no larger request (413), so it was shown JPEG"
                        f"{f' of at most {side} pixels a side' if side else ''}")
                continue
            if status in REFUSALS and (other := dialect.after(said, body)):
                self.dialect = other
                continue
            if status in WORTH_RETRYING:
                raise Busy(f"status {status}: {said[:120]}{hint(said)}", seconds_of(headers.get("retry-after")))
            if status != 200:
                return Failure(await self._why(client, status, said, headers, key))
            try:
                found = read_completion(reply, question.form, self.max_tokens, key)
            except Unreadable as error:
                raise Busy(f"{error}{v1_hint(self.url)}") from None
            return replace(found, note=note) if isinstance(found, Reply) and note else found

    async def _why(self, client: httpx.AsyncClient, status: int, said: str, headers: httpx.Headers,
                   key: str | None) -> str:
        """One sentence about a status that retrying will not change."""
        if turned := self.turned_away(status, said, headers, key, ", up to and with /v1"):
            return turned
        if status == 413:
            return (f"the images are too large for {self.url}, even as JPEG of {SMALLER[-1]} pixels (status 413); "
                    "let the server take larger requests (client_max_body_size in nginx), or lower frames")
        remedy = v1_hint(self.url) if status in (404, 405) else ""
        if "model" in said.lower() and status in (400, 404, 422):
            remedy = await self._models(client, key) or remedy
        words = f": {said[:160].rstrip('.')}" if said else ""
        return f"{self.url} answered with status {status}{words}{hint(said) or remedy}"

    async def _models(self, client: httpx.AsyncClient, key: str | None) -> str:
        """'; ...' with the server's models, where the requested one is not among them; asked once."""
        if self._offered is None:
            try:
                with anyio.fail_after(LOOK):
                    async with client.stream("GET", f"{self.url}/models") as response:
                        listing = parsed(await read_body(response, LEAST_BODY), key, COMPLETION)
                names = [plain_text(without_key(str(each["id"]), key))[:80] for each in listing["data"]]
            except (TimeoutError, httpx.HTTPError, Unreadable, LookupError, TypeError):
                return ""
            self._offered = ""
            if names and self.model not in names:
                more = f" and {len(names) - 12} more" if len(names) > 12 else ""
                meant = nearest(self.model, names) if len(names) > 12 else ""
                self._offered = (f"; model is {self.model!r}, the server offers {', '.join(names[:12])}{more}"
                                 f"{meant if 'did you mean' in meant else ''}")
        return self._offered

    def _body(self, question: Question, images: list[str], dialect: Dialect) -> dict[str, Any]:
        content = [*({"type": "image_url", "image_url": {"url": url}} for url in images),
                   {"type": "text", "text": question.asked(dialect.schema)}]
        return {"model": self.model, "temperature": self.temperature,
                **dialect.fields(question.form, self.max_tokens, self.logprobs),
                "messages": [{"role": "user", "content": content}]}


def data_url(image: Image.Image, side: int | None = 0) -> str:
    """The image as PNG, or as JPEG whose longer side is at most `side` pixels (None: as many as it has)."""
    if side == 0:
        return "data:image/png;base64," + base64.b64encode(to_bytes(image)).decode()
    smaller = image.convert("RGB")
    if side:
        smaller.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=95)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
