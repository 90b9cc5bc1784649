"""Asking an OpenAI-compatible chat endpoint (vLLM, SGLang, hosted): bounded, patient, and never trusting its order."""

import asyncio
import base64
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from visalign.media import to_bytes
from visalign.rewards.vlm.questions import Answer, Failure, Question

GIVE_UP_AFTER = 16
"""Questions in a row that never reached the server, after which the rest are not tried (until the next call)."""
WORTH_RETRYING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT = 30.0


class Unreachable(Exception):
    """Nothing came back; asking again may help."""


class Busy(Exception):
    """The server asked to come back later, or answered with what is no chat completion."""

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.after = after


@dataclass
class HttpAsker:
    """Sends questions to `url`/chat/completions, at most `concurrency` at once."""

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

    def ask(self, questions: list[Question], on_answer: Callable[[int, Answer], None]) -> list[Answer | Failure]:
        with ThreadPoolExecutor(1) as pool:  # a loop of its own, since the caller may already run in one
            return pool.submit(asyncio.run, self._ask_all(questions, on_answer)).result()

    async def _ask_all(self, questions, on_answer) -> list[Answer | Failure]:
        gate, missed = asyncio.Semaphore(self.concurrency), [0]
        key = self._key()
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(timeout=self.timeout, limits=limits, trust_env=False,
                                     headers={"Authorization": f"Bearer {key}"} if key else {}) as client:
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

    def _key(self) -> str | None:
        return os.environ.get(self.key_env)

    async def _patiently(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        """Ask, and ask again after a growing wait."""
        try:
            async for attempt in AsyncRetrying(stop=stop_after_attempt(self.retries + 1), wait=self._pause,
                                               retry=retry_if_exception_type((Unreachable, Busy)), reraise=True):
                with attempt:
                    return await self._once(client, question)
        except Unreachable as error:
            return Silence(f"{self.url} did not answer in {self.retries + 1} tries ({error})")
        except Busy as error:
            return Failure(f"{self.url} gave no usable answer in {self.retries + 1} tries ({error})")
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, Busy) and error.after is not None else 0.0
        return max(min(asked, LONGEST_WAIT), self.wait(state))

    async def _once(self, client: httpx.AsyncClient, question: Question) -> Answer | Failure:
        try:
            response = await client.post(f"{self.url.rstrip('/')}/chat/completions", json=self._body(question))
        except httpx.TimeoutException:
            raise Unreachable(f"no answer within {self.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise Unreachable(type(error).__name__) from None
        if response.status_code in WORTH_RETRYING:
            raise Busy(f"status {response.status_code}", seconds_of(response.headers.get("retry-after")))
        if response.status_code != 200:
            said = " ".join(response.text.split())[:120]
            key = self._key()
            said = said.replace(key, "***") if key else said  # some servers repeat the key they refuse
            return Failure(f"{self.url} answered with status {response.status_code}: {said}")
        try:
            choice = response.json()["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            digits = first_digits((choice.get("logprobs") or {}).get("content") or [])
        except (ValueError, LookupError, TypeError, AttributeError):
            raise Busy("the body is no chat completion") from None
        if refusal:
            return Failure(f"the model refused: {str(refusal)[:120]}")
        if not isinstance(text, str) or not text.strip():
            return Failure("the model's answer is empty")
        return Answer(text, digits)

    def _body(self, question: Question) -> dict[str, Any]:
        pictures = [{"type": "image_url", "image_url": {
            "url": "data:image/png;base64," + base64.b64encode(to_bytes(image)).decode()}} for image in question.images]
        chances = {"logprobs": True, "top_logprobs": 20} if self.logprobs else {}
        return {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens, **chances,
                "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": question.text}]}]}


class Silence(Failure):
    """The server was not reached at all."""


def seconds_of(header: str | None) -> float | None:
    try:
        return max(0.0, float(header))
    except (TypeError, ValueError):
        return None


def first_digits(tokens: list[dict]) -> dict[str, float] | None:
    """Probabilities of the digits 0-9 at the first token that is one digit; None where log-probs tell nothing."""
    import math

    for token in tokens:
        if token["token"].strip().isdigit() and len(token["token"].strip()) == 1:
            found: dict[str, float] = {}
            for option in [*token.get("top_logprobs", ()), {"token": token["token"], "logprob": token["logprob"]}]:
                digit = option["token"].strip()
                if len(digit) == 1 and digit.isdigit():
                    found[digit] = max(found.get(digit, 0.0), math.exp(option["logprob"]))
            return found
    return None
