"""A user and a password before anything is answered, and a growing wait after wrong ones."""

import base64
import hmac
import math
from collections import OrderedDict
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from visalign_demo.claims import client_in
from visalign_demo.context import network_of

FREE_TRIES, LONGEST_WAIT, FORGOTTEN, REMEMBERED = 5, 900, 3600, 20_000


class Waits:
    """How long to wait after wrong attempts: not after the first few, then twice as long after each."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float, str]] = OrderedDict()

    def left(self, who: str) -> float:
        """Seconds until the next attempt."""
        count, last, _ = self._wrong.get(who, (0, 0.0, ""))
        wait = 0 if count < FREE_TRIES else min(LONGEST_WAIT, 2.0 ** min(20, count - FREE_TRIES + 1))
        return max(0.0, last + wait - self._clock())

    def wrong(self, who: str, given: str) -> None:
        """Count an attempt; the same password again is not a new one (a page requests many files). A right one in
        between resets nothing, since others may share the address."""
        count, last, before = self._wrong.get(who, (0, 0.0, ""))
        if hmac.compare_digest(before.encode(), given.encode()):
            return
        now = self._clock()
        self._wrong[who] = (count + 1 if now - last < FORGOTTEN else 1, now, given)
        self._wrong.move_to_end(who)
        while len(self._wrong) > REMEMBERED:
            self._wrong.popitem(last=False)


class BasicAuth:
    """Middleware: asks for a user and password. Wrong ones are counted by address; a page that was admitted before does
    not wait because of others at its address."""

    def __init__(self, app: ASGIApp, user: str, password: str, clock: Callable[[], float]):
        self.app, self._waits = app, Waits(clock)
        self._wanted = base64.b64encode(f"{user}:{password}".encode())
        self._known: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, address = Headers(scope=scope), network_of((scope.get("client") or ("here", 0))[0])
        client, (kind, _, given) = client_in(headers), headers.get("authorization", "").strip().partition(" ")
        given = given.strip() if kind.lower() == "basic" else ""
        who = client if client in self._known else address
        if given and (left := self._waits.left(who)):
            answer = PlainTextResponse(f"Too many wrong passwords; try again in {math.ceil(left)} s.", 429,
                                       {"Retry-After": str(math.ceil(left))})
        elif hmac.compare_digest(given.encode(), self._wanted):
            self._remember(client)
            await self.app(scope, receive, send)
            return
        else:
            if given:
                self._waits.wrong(who, given)
            answer = PlainTextResponse("A user and password are needed.", 401,
                                       {"WWW-Authenticate": 'Basic realm="visalign", charset="UTF-8"'})
        await answer(scope, receive, send)

    def _remember(self, client: str) -> None:
        if client:
            self._known[client] = None
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
