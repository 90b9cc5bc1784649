"""Calling a server many times: bounded in time and bytes, with retries, in any order."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import anyio
import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from visalign.errors import UserError
from visalign.rewards.pairwise import Failure
from visalign.rewards.web.address import key_in, same_server
from visalign.rewards.web.replies import Unreadable, plain_text, read_body, without_key

GIVE_UP_AFTER = 16
"""After this many requests in a row that never reached the server the rest are not tried (until the next call)."""
WORTH_RETRYING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT, MOST_REDIRECTS = 30.0, 3
LOOK = 10.0
"""Seconds that looking for a server may take before scoring begins."""
LOOK_BYTES = 4 << 20
CAUSES = {"RemoteProtocolError": "the connection was closed early, or what came is not HTTP",
          "ReadError": "the connection broke while the answer came", "InvalidURL": "it redirects to what is no address"}

Found = TypeVar("Found")


class Unreachable(Exception):
    """No reply; asking again may help."""


class Busy(Exception):
    """The server asked to retry later, or answered with something else than what was asked for."""

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.after = after


class Queued(Busy):
    """The server is in order and has no room yet; waiting for it is no failed try. For calls with a deadline."""


class Silence(Failure):
    """The server was not reached."""


@dataclass(kw_only=True)
class Caller:
    """Posts to addresses below `url`, at most `concurrency` requests at once.

    key_env: the environment variable that holds the key. timeout: seconds for one whole reply. retries: after the first
    try. deadline: seconds for all requests of one `every`, with their retries; None where only timeouts count.
    """

    url: str
    key_env: str
    timeout: float
    retries: int
    concurrency: int
    deadline: float | None = None
    wait: Any = field(default_factory=lambda: wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT))

    when_slow: ClassVar[str] = "raise timeout, or lower concurrency"
    kind: ClassVar[str] = "application/json"

    def look(self, path: str, who: str) -> tuple[int, bytes]:
        """(status, body) of a GET; status 0 and the cause for a server that is there and does not speak HTTP.

        Raises UserError naming the reward `who` when there is no server, or when it refuses the key.
        """
        try:
            key = key_in(self.key_env)
            status, body = self._alone(self._look(path, key))
        except UserError as error:
            raise UserError(f"reward {who}: {error}") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise UserError(f"reward {who}: {self.url} cannot be reached ({self._cause(error)}); start the server, or "
                            "correct url") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return 0, self._cause(error).encode()
        except (TimeoutError, Unreadable) as error:
            return 0, (str(error) or f"no whole answer within {min(self.timeout, LOOK):g} s").encode()
        if status == 401:
            raise UserError(f"reward {who}: {self.url} {self.refused_key(key)}")
        return status, body

    async def _look(self, path: str, key: str | None) -> tuple[int, bytes]:
        with anyio.fail_after(min(self.timeout, LOOK)):
            async with (httpx.AsyncClient(timeout=min(self.timeout, LOOK), trust_env=False,
                                          headers=authorization(key) | PACKINGS) as client,
                        client.stream("GET", f"{self.url}{path}") as response):
                return response.status_code, await read_body(response, LOOK_BYTES)

    @staticmethod
    def _alone(work: Awaitable[Found]) -> Found:
        """Run a coroutine in a loop of its own, since the caller may run in one."""
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, work).result()

    def every(self, count: int, ask: Callable[[httpx.AsyncClient, int], Awaitable[Found | Failure]],
              on_found: Callable[[int, Found], None] = lambda i, found: None) -> list[Found | Failure]:
        """What `ask` gives for 0 to count - 1, tried again where it raises Unreachable or Busy; `on_found` as each
        arrives."""
        return self._alone(self._every(count, ask, on_found))

    async def _every(self, count, ask, on_found) -> list:
        gate, missed, said = asyncio.Semaphore(self.concurrency), [0], [""]
        until = anyio.current_time() + (float("inf") if self.deadline is None else self.deadline)
        headers = authorization(key_in(self.key_env)) | PACKINGS | {"Content-Type": self.kind}
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(timeout=self.timeout, limits=limits, trust_env=False, headers=headers) as client:
            async def one(i: int):
                async with gate:
                    if missed[0] >= GIVE_UP_AFTER:
                        return Failure(f"{self.url} stopped answering, not asked")
                    outcome = await self._patiently(client, ask, i, said)
                    if not isinstance(outcome, Failure):
                        on_found(i, outcome)
                    missed[0] = missed[0] + 1 if isinstance(outcome, Silence) else 0
                    return outcome

            async def one_in_time(i: int):
                with anyio.move_on_after(until - anyio.current_time()):
                    return await one(i)
                last = f", lastly with {said[0]}" if said[0] else ""
                return Silence(f"{self.url} did not answer all in the {self.deadline:g} s of deadline{last}")

            return await asyncio.gather(*(one_in_time(i) for i in range(count)))

    async def _patiently(self, client: httpx.AsyncClient, ask, i: int, said: list[str]):
        """Ask, and ask again after a growing wait. said: gets what went wrong last."""
        failed = 0

        def stop(state: RetryCallState) -> bool:
            nonlocal failed
            error = state.outcome.exception()
            failed, said[0] = failed + (not isinstance(error, Queued)), str(error)
            return failed > self.retries

        try:
            async for attempt in AsyncRetrying(stop=stop, wait=self._pause, reraise=True,
                                               retry=retry_if_exception_type((Unreachable, Busy))):
                with attempt:
                    return await ask(client, i)
        except Unreachable as error:
            return Silence(f"{self.url} did not answer in {self.retries + 1} tries ({error})")
        except Busy as error:
            return Failure(f"{self.url} gave no usable answer in {self.retries + 1} tries ({error})")
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, Busy) and error.after is not None else 0.0
        return max(min(asked, LONGEST_WAIT), self.wait(state))

    async def send(self, client: httpx.AsyncClient, path: str, body: bytes,
                   most: int) -> tuple[int, httpx.Headers, bytes]:
        """(status, headers, body of at most `most` bytes) of the reply, after redirects that stay on the server.

        Raises Unreachable or Busy where asking again may help.
        """
        url = httpx.URL(f"{self.url}{path}")
        try:
            with anyio.fail_after(self.timeout):  # the client's own timeout is for the wait between two bytes
                for _ in range(MOST_REDIRECTS):
                    async with client.stream("POST", url, content=body) as response:
                        target = url.join(response.headers.get("location", ""))
                        if response.status_code not in (307, 308) or not same_server(url, target):
                            return response.status_code, response.headers, await read_body(response, most)
                    url = target
        except (TimeoutError, httpx.TimeoutException):
            raise Unreachable(f"no whole answer within {self.timeout:g} s; {self.when_slow}") from None
        except httpx.WriteError:
            raise Unreachable(f"the connection broke while {len(body) / 1e6:.1f} MB were sent; does the server bound "
                              "the size of a request?") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(self._cause(error)) from None
        except Unreadable as error:
            raise Busy(str(error)) from None
        raise Busy(f"it redirects more than {MOST_REDIRECTS} times, lastly to {url}")

    def turned_away(self, status: int, said: str, headers: httpx.Headers, key: str | None, upto: str) -> str | None:
        """One sentence about a refused key or a redirect elsewhere, None for another status. upto: what url ends in."""
        if status in (401, 403):
            return f"{self.url} {self.refused_key(key, status)}: {said[:120]}"
        if 300 <= status < 400:
            target = without_key(headers.get("location", "nowhere"), key)
            return (f"{self.url} redirects to {plain_text(target)[:200]} (status {status}), which was given neither "
                    f"key nor images; if that is the server you mean, set url to it{upto}")
        return None

    def refused_key(self, key: str | None, status: int = 401) -> str:
        if key is None:
            return (f"wants a key (status {status}); put it into the environment variable {self.key_env} "
                    f"({self.setting})")
        return f"refused the key in the environment variable {self.key_env} (status {status})"

    setting: ClassVar[str] = "key_env"

    def _cause(self, error: Exception) -> str:
        """Why there is no reply, in the system's words, without any part of the request."""
        said, inner = "", error if isinstance(error, httpx.ConnectError) else None
        while inner is not None:  # the innermost is the system's own
            number = getattr(inner, "errno", None) or 0
            said = os.strerror(number) if number > 0 else " ".join(str(inner).split()) or said
            inner = inner.__cause__ or inner.__context__
        return said[:160] or CAUSES.get(type(error).__name__, type(error).__name__)


PACKINGS = {"Accept-Encoding": "gzip, deflate"}
"""Those that `read_body` unpacks within bounds."""


def authorization(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}
