"""Asking an OpenAI-compatible chat endpoint (vLLM, SGLang, hosted): bounded, with retries, in any order."""

import asyncio
import base64
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import httpx
from PIL import Image
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from visalign.errors import UserError, nearest
from visalign.media.samples import to_bytes
from visalign.rewards.pairwise import Failure
from visalign.rewards.vlm.address import key_in, same_server, v1_hint
from visalign.rewards.vlm.dialect import Dialect, hint
from visalign.rewards.vlm.questions import Answer, Question
from visalign.rewards.vlm.replies import (
    Unreadable,
    parsed,
    plain_text,
    read_body,
    read_completion,
    seconds_of,
    without_key,
    words_of_page,
)

GIVE_UP_AFTER = 16
"""After this many questions in a row that never reached the server the rest are not tried (until the next call)."""
WORTH_RETRYING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
REFUSALS = frozenset({400, 422, 501})
LONGEST_WAIT, MOST_REDIRECTS = 30.0, 3
LEAST_BODY, BODY_OF_TOKEN = 4 << 20, 4 << 10
"""Bytes allowed in a reply, and further bytes per token (20 log-probabilities take about 3 kB)."""
LOOK = 10.0
"""Seconds that looking for a server may take before scoring begins."""
CAUSES = {"RemoteProtocolError": "the connection was closed early, or what came is not HTTP",
          "ReadError": "the connection broke while the answer came", "InvalidURL": "it redirects to what is no address"}
SMALLER = (None, 2048, 1024, 512)
"""Longest sides of the JPEGs tried in turn when a server says that a request is too large."""


class Unreachable(Exception):
    """No reply; asking again may help."""


class Busy(Exception):
    """The server asked to retry later, or answered with something else than a chat completion."""

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.after = after


class Silence(Failure):
    """The server was not reached."""


@dataclass
class HttpAsker:
    """Sends questions to `url`/chat/completions, at most `concurrency` at once; `timeout` is for one whole reply."""

    url: str
    model: str
    key_env: str
    timeout: float
    retries: int
    concurrency: int
    max_tokens: int
    temperature: float
    logprobs: bool
    wait: Any = field(default_factory=lambda: wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT))

    def __post_init__(self):
        self.dialect = Dialect()
        self._offered: str | None = None

    def check(self, who: str) -> None:
        """Raise UserError when there is no server, or when it refuses the key."""
        try:
            key = key_in(self.key_env)
            with httpx.stream("GET", f"{self.url}/models", timeout=min(self.timeout, LOOK), trust_env=False,
                              headers=authorization(key)) as response:
                status = response.status_code
        except UserError as error:
            raise UserError(f"reward {who}: {error}") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UserError(f"reward {who}: {self.url} cannot be reached ({self._cause(error)}); start the server, or "
                            "correct url") from None
        except httpx.HTTPError:  # it is there; scoring will show the rest
            return
        if status == 401:
            raise UserError(f"reward {who}: {self.url} {self._refused_key(key)}")

    def ask(self, questions: list[Question], on_answer: Callable[[int, Answer], None]) -> list[Answer | Failure]:
        with ThreadPoolExecutor(1) as pool:  # a loop of its own, since the caller may run in one
            return pool.submit(asyncio.run, self._ask_all(questions, on_answer)).result()

    async def _ask_all(self, questions, on_answer) -> list[Answer | Failure]:
        gate, missed = asyncio.Semaphore(self.concurrency), [0]
        limits = httpx.Limits(max_connections=self.concurrency)
        headers = authorization(key_in(self.key_env)) | {"Content-Type": "application/json",
                                                         "Accept-Encoding": "gzip, deflate"}
        async with httpx.AsyncClient(timeout=self.timeout, limits=limits, trust_env=False, headers=headers) as client:
            async def one(i: int) -> Answer | Failure:
                async with gate:
                    if missed[0] >= GIVE_UP_AFTER:
                        return Failure(f"{self.url} stopped answering, not asked")
                    outcome = await self._patiently(client, questions[i])
                    if isinstance(outcome, Answer):
                        on_answer(i, outcome)
                    missed[0] = missed[0] + 1 if isinstance(outcome, Silence) else 0
                    return outcome

            return await asyncio.gather(*(one(i) for i in range(len(questions))))

    async def _patiently(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        """Ask, and ask again after a growing wait."""
        try:
            async for attempt in AsyncRetrying(stop=stop_after_attempt(self.retries + 1), wait=self._pause,
                                               retry=retry_if_exception_type((Unreachable, Busy)), reraise=True):
                with attempt:
                    return await self._agreeing(client, question)
        except Unreachable as error:
            return Silence(f"{self.url} did not answer in {self.retries + 1} tries ({error})")
        except Busy as error:
            return Failure(f"{self.url} gave no usable answer in {self.retries + 1} tries ({error})")
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, Busy) and error.after is not None else 0.0
        return max(min(asked, LONGEST_WAIT), self.wait(state))

    async def _agreeing(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        """Ask in the server's dialect, learnt from its refusals, with images no larger than it takes."""
        smaller, note = iter(SMALLER), None
        images = [data_url(image) for image in question.images]
        while True:
            dialect = self.dialect
            body = self._body(question, images, dialect)
            status, headers, reply = await self._send(client, json.dumps(body).encode())
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
            return replace(found, note=note) if isinstance(found, Answer) and note else found

    async def _send(self, client: httpx.AsyncClient, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        """(status, headers, body) of the reply, after redirects that stay on the server."""
        url = httpx.URL(f"{self.url}/chat/completions")
        most = LEAST_BODY + BODY_OF_TOKEN * self.max_tokens
        try:
            with anyio.fail_after(self.timeout):  # the client's own timeout is for the wait between two bytes
                for _ in range(MOST_REDIRECTS):
                    async with client.stream("POST", url, content=body) as response:
                        target = url.join(response.headers.get("location", ""))
                        if response.status_code not in (307, 308) or not same_server(url, target):
                            return response.status_code, response.headers, await read_body(response, most)
                    url = target
        except (TimeoutError, httpx.TimeoutException):
            raise Unreachable(f"no whole answer within {self.timeout:g} s; raise timeout, or lower concurrency or "
                              "max_tokens") from None
        except httpx.WriteError:
            raise Unreachable(f"the connection broke while {len(body) / 1e6:.1f} MB were sent; does the server bound "
                              "the size of a request?") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(self._cause(error)) from None
        except Unreadable as error:
            raise Busy(str(error)) from None
        raise Busy(f"it redirects more than {MOST_REDIRECTS} times, lastly to {url}")

    async def _why(self, client: httpx.AsyncClient, status: int, said: str, headers: httpx.Headers,
                   key: str | None) -> str:
        """One sentence about a status that retrying will not change."""
        if status in (401, 403):
            return f"{self.url} {self._refused_key(key, status)}: {said[:120]}"
        if status == 413:
            return (f"the images are too large for {self.url}, even as JPEG of {SMALLER[-1]} pixels (status 413); "
                    "let the server take larger requests (client_max_body_size in nginx), or lower frames")
        if 300 <= status < 400:
            target = without_key(headers.get("location", "nowhere"), key)
            return (f"{self.url} redirects to {plain_text(target)[:200]} (status {status}), which was given neither "
                    "key nor images; if that is the server you mean, set url to it, up to and with /v1")
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
                        listing = parsed(await read_body(response, LEAST_BODY), key)
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

    def _refused_key(self, key: str | None, status: int = 401) -> str:
        if key is None:
            return f"wants a key (status {status}); put it into the environment variable {self.key_env} (key_env)"
        return f"refused the key in the environment variable {self.key_env} (status {status})"

    def _cause(self, error: Exception) -> str:
        """Why there is no reply, in the system's words, without any part of the request."""
        said = " ".join(str(error).split()) if isinstance(error, httpx.ConnectError) else ""
        return said[:160] or CAUSES.get(type(error).__name__, type(error).__name__)

    def _body(self, question: Question, images: list[str], dialect: Dialect) -> dict[str, Any]:
        content = [*({"type": "image_url", "image_url": {"url": url}} for url in images),
                   {"type": "text", "text": question.asked(dialect.schema)}]
        return {"model": self.model, "temperature": self.temperature,
                **dialect.fields(question.form, self.max_tokens, self.logprobs),
                "messages": [{"role": "user", "content": content}]}


def authorization(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


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
