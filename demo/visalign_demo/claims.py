"""Ownership: a client's uploads and sessions are its own, and what it sends is inspected before the app sees it.

The app's framework opens whatever path a request names, so no request reaches it unread: the body is rebuilt from the
few keys that a page sends, and every object in its data must be a file that this client has uploaded.
"""

import json
import math
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

API = "/gradio_api"
COOKIE, _TOKEN = "visalign-client", re.compile(r"[A-Za-z0-9_-]{32,64}")
LONGEST_BODY, LONGEST_SESSION, DEEPEST = 256 * 1024, 100, 8
REMEMBERED = 20_000
"""Uploads and sessions whose owners are known; the oldest are forgotten first."""
_WORDS = {list: "array", int: "integer", str: "string"}
_DATA = {"data": list, "fn_index": int, "session_hash": str, "trigger_id": int}
_BODIES = {"queue/join": _DATA, "run": _DATA, "api": _DATA, "call": _DATA,
           "cancel": {"session_hash": str, "fn_index": int, "event_id": str}, "reset": {"event_id": str}}
"""The keys allowed in a body, by route."""


class Refused(Exception):
    """What is wrong with a request, in one sentence, and the HTTP status of the answer."""

    def __init__(self, sentence: str, status: int = 400):
        super().__init__(sentence)
        self.status = status


class Claims:
    """Owners of uploads and sessions. A client is known by its cookie; one without, by the session it names."""

    def __init__(self, uploads: Path, room: int):
        self.uploads, self.room = uploads, room
        uploads.mkdir(parents=True, exist_ok=True)
        self._owners: OrderedDict[str, set[str]] = OrderedDict()
        self._sessions: OrderedDict[str, str] = OrderedDict()

    def keep(self, path: str, client: str) -> None:
        self._owners.setdefault(path, set()).add(client)
        self._owners.move_to_end(path)
        while len(self._owners) > REMEMBERED:
            self._owners.popitem(last=False)

    def owns(self, client: str, path: object) -> bool:
        return bool(client) and isinstance(path, str) and client in self._owners.get(path, ())

    def join(self, session: str, client: str) -> None:
        """Raises Refused when the session is that of another client."""
        if len(session) > LONGEST_SESSION:
            raise Refused(f"A session name has at most {LONGEST_SESSION} characters.")
        owner = self._sessions.get(session, "")
        if owner and owner != client:
            raise Refused("This session belongs to another page; reload yours.", 403)
        self._sessions[session] = client
        self._sessions.move_to_end(session)
        while len(self._sessions) > REMEMBERED:
            self._sessions.popitem(last=False)

    def make_room(self, size: int) -> None:
        """Delete the oldest uploads until `size` bytes more fit."""
        found = [(path.stat(), path) for path in self.uploads.rglob("*") if path.is_file()]
        used = size + sum(max(4096, stat.st_size) for stat, _ in found)
        for stat, path in sorted(found, key=lambda each: each[0].st_mtime):
            if used <= self.room:
                return
            path.unlink(missing_ok=True)
            used -= max(4096, stat.st_size)


def client_in(headers: Headers) -> str:
    """The client that a request's cookie names; empty without one."""
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie and _TOKEN.fullmatch(cookie.value) else ""


def read_body(body: bytes, kinds: dict[str, type], own: Callable[[object], bool]) -> dict:
    """The known keys of a JSON body, files in its data reduced to their paths. Raises Refused."""
    try:
        said = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused("A request must be JSON.") from None
    if not isinstance(said, dict):
        raise Refused("A request must be a JSON object.")
    made = {}
    for key, kind in kinds.items():
        value = said.get(key)
        if value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool):
            raise Refused(f"'{key}' in a request must be a JSON {_WORDS[kind]}.")
        made[key] = only_own(value, own) if kind is str else value
    if "data" in kinds:
        made["data"] = [only_own(value, own) for value in made.get("data", [])]
    return made


def _no_number(word: str) -> float:
    raise ValueError(word)


def only_own(value: object, own: Callable[[object], bool], depth: int = 0) -> object:
    """A value of a body's data. The only objects that a page sends are files it uploaded; raises Refused for others."""
    if depth > DEEPEST:
        raise Refused("The data of a request is nested too deeply.")
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused("The text of a request holds a lone surrogate, which is not valid Unicode.") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused("A number of a request is too large.")
    if isinstance(value, list):
        return [only_own(each, own, depth + 1) for each in value]
    if isinstance(value, dict):
        if not own(value.get("path")):
            raise Refused("A file in a request must be one that this page has uploaded.", 403)
        return {"path": value["path"], "meta": {"_type": "gradio.FileData"}}
    return value


class Customs:
    """Middleware: gives clients their cookie, records what they upload as theirs, and inspects what they send."""

    def __init__(self, app: ASGIApp, claims: Claims, root: str, most_upload: int,
                 admit: Callable[[str, str, dict], None]):
        self.app, self.claims, self.root, self.most_upload, self.admit = app, claims, root, most_upload, admit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._pass(scope, receive, send)
        except Refused as refused:
            await JSONResponse({"detail": str(refused), "error": str(refused)}, refused.status)(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        client, path = client_in(headers), scope["path"]
        if path == f"{API}/upload" and scope["method"] == "POST":
            client, greet = (client, send) if client else self._greeting(scope, send)
            scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            self.admit(address_of(scope), "upload", {})
            await anyio.to_thread.run_sync(self.claims.make_room, self._size(headers))
            await self.app(scope, receive, self._registrar(client, greet))
        elif scope["method"] == "POST":
            await self.app(scope, await self._inspected(scope, receive, client), send)
        elif path == "/" and not client:
            await self.app(scope, receive, self._greeting(scope, send)[1])
        else:
            self._check_read(path, scope, client)
            await self.app(scope, receive, send)

    def _check_read(self, path: str, scope: Scope, client: str) -> None:
        """Only a client's own files and sessions may be read."""
        if path.startswith(f"{API}/file=") and not self.claims.owns(client, path.removeprefix(f"{API}/file=")):
            raise Refused("You have no such file.", 403)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        sessions = [*query.get("session_hash", []), *re.findall(rf"{API}/heartbeat/(.*)", path)]
        for session in sessions:
            self.claims.join(session, client)

    async def _inspected(self, scope: Scope, receive: Receive, client: str) -> Receive:
        """The body as the app may see it."""
        route = scope["path"].removeprefix(f"{API}/")
        kinds = _BODIES.get(route) or _BODIES.get(route.partition("/")[0])
        if kinds is None:
            raise Refused("Nothing can be sent to this address.", 404)
        made = read_body(await read_all(receive), kinds, lambda path: self.claims.owns(client, path))
        self.admit(address_of(scope), route, made)
        if session := made.get("session_hash"):
            self.claims.join(session, client)
        body = json.dumps(made).encode()
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in
                            (b"content-length", b"content-type", b"content-encoding", b"transfer-encoding")] + [
            (b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        return replay(body, receive)

    def _size(self, headers: Headers) -> int:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise Refused("An upload must state its length.", 411)
        if int(length) > self.most_upload:
            raise Refused(f"At most {self.most_upload // 2**20} MiB can be uploaded at once.", 413)
        return int(length)

    def _greeting(self, scope: Scope, send: Send) -> tuple[str, Send]:
        """A new client, and a `send` that sets its cookie."""
        client = secrets.token_urlsafe(32)
        secure = "; Secure" if scope["scheme"] == "https" else ""

        async def greet(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append(
                    "set-cookie", f"{COOKIE}={client}; Path={self.root or '/'}; Max-Age=31536000; HttpOnly; "
                                  f"SameSite=Lax{secure}")
            await send(message)

        return client, greet

    def _registrar(self, client: str, send: Send) -> Send:
        """A `send` that keeps the paths, which the answer to an upload names, as the client's."""
        status, body = 0, b""

        async def register(message: Message) -> None:
            nonlocal status, body
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body" and status == 200:
                body += message.get("body", b"")
                if not message.get("more_body"):
                    for path in json.loads(body):
                        self.claims.keep(path, client)
            await send(message)

        return register


def address_of(scope: Scope) -> str:
    return (scope.get("client") or ("here", 0))[0]


async def read_all(receive: Receive) -> bytes:
    """A request's body. Raises Refused for a long one."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > LONGEST_BODY:
            raise Refused(f"A request has at most {LONGEST_BODY} bytes.", 413)
    return body


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns a body that was already read, and then waits for the client to disconnect."""
    left = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again
