"""What is required of a request before the app sees it: a name of this server, its own page, and a route in use.

Everything else of the framework's many routes (proxies, deep links, recordings, editors) is closed: a route is open
because it is listed here. Only proxies named by the operator are believed in what they say of a request.
"""

import ipaddress
import logging
import re
import socket
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from visalign.errors import UserError
from visalign_demo.claims import API

_log = logging.getLogger("visalign.demo")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "same-origin",
            "content-security-policy": "frame-ancestors 'self'"}
_TOLD = re.compile(rb"forwarded|x-forwarded-.+|x-real-ip|x-gradio-server")
"""What a proxy says of a request; gradio would believe it from anybody."""
_OPEN = {
    "GET": re.compile(rf"/|/config/?|/theme\.css|/manifest\.json|/robots\.txt|/favicon\.ico|/(static|assets|svelte)/.*"
                      rf"|/(media|report)/.*|{API}/(info/?|app_id/?|theme\.css|upload_progress|queue/data|heartbeat/.+"
                      rf"|call/[^/]+/[^/]+|file=.+)"),
    "POST": re.compile(rf"{API}/(upload|queue/join|(run|api|call)/[^/]+/?|cancel|reset/?)"),
}
_OPEN["HEAD"] = _OPEN["GET"]


class Proxies:
    """Middleware: takes the client's address, host and scheme from a trusted proxy's headers; drops all others."""

    def __init__(self, app: ASGIApp, trusted: tuple[str, ...]):
        self._believing, self._next, self._warned = ProxyHeadersMiddleware(self._forget, list(trusted)), app, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers, peer = MutableHeaders(scope=scope), (scope.get("client") or ("", 0))[0]
            if peer in self._believing.trusted_hosts:
                if names := headers.getlist("x-forwarded-host"):
                    headers["host"] = names[-1].rpartition(",")[2].strip()
            elif not self._warned and "x-forwarded-for" in headers:
                self._warned = True
                _log.warning("%s sends X-Forwarded headers, which are not believed; if it is your proxy, start with "
                             "--trusted-proxy %s", peer, peer)
        await self._believing(scope, receive, send)

    async def _forget(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["headers"] = [pair for pair in scope["headers"] if not _TOLD.fullmatch(pair[0])]
        await self._next(scope, receive, send)


class RequestGate:
    """Middleware: admits requests for this server, from its page, for an open route; paths come without `root`."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...], root: str):
        self.app, self.root = app, root
        self.names = {*LOOPBACK, socket.gethostname().lower(), f"{socket.gethostname().lower()}.local",
                      *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            send = _with_headers(send)
            if self.root and scope["path"] == self.root:
                await RedirectResponse(f"{self.root}/")(scope, receive, send)
                return
            if self.root and scope["path"].startswith(f"{self.root}/"):
                scope = scope | {"path": scope["path"].removeprefix(self.root), "raw_path": None}
            if (refusal := self.refusal(scope)) is not None:
                await PlainTextResponse(refusal[1], refusal[0])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def refusal(self, scope: Scope) -> tuple[int, str] | None:
        """A status and a sentence for what is refused; None for what passes."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.knows(host_name(host)):
            name = host_name(host)[:100]
            return 400, (f"This demo is not known by the name {name!r}. If it should be, add it to the allowed "
                         f"hosts: visalign demo --allowed-host {name if _NAME.fullmatch(name) else 'NAME'}")
        if not self.same_site(scope, headers, host):
            return 403, "Requests from another site's page are refused."
        allowed = _OPEN.get(scope["method"])
        if allowed is None or not allowed.fullmatch(scope["path"]) or b"deep_link" in scope["query_string"]:
            return 404, "Not found."
        return None

    def knows(self, name: str) -> bool:
        """Addresses cannot be redirected; a name may have been pointed here by a hostile page."""
        return name in self.names or is_address(name) or any(
            pattern.startswith("*.") and name.endswith(pattern[1:]) for pattern in self.names)

    def same_site(self, scope: Scope, headers: Headers, host: str) -> bool:
        """Whether no other site's page sent this; opening the page by a link from elsewhere is allowed."""
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            return site in ("same-origin", "none") or (headers.get("sec-fetch-mode") == "navigate" and scope[
                "method"] == "GET")
        if origin is None:
            return True
        try:
            given = urlsplit(origin)
            port = given.port
        except ValueError:
            return False
        default = {"http": 80, "https": 443}.get(given.scheme)
        own = urlsplit(f"//{host}")
        same = given.hostname == own.hostname and (port or default) in (own.port, default if own.port is None else None)
        return same or given.hostname in self.names - set(LOOPBACK)


_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/@\[\]]+)(:[0-9]{1,5})?")


def host_name(header: str) -> str:
    """The name in a Host header, without its port; empty for anything else."""
    found = _HOST.fullmatch(header)
    return found[1].strip("[]").lower().removesuffix(".") if found else ""


def is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _with_headers(send: Send) -> Send:
    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return add


def check_names(names: tuple[str, ...], proxies: tuple[str, ...], root: str) -> None:
    """Raise UserError for invalid hosts, proxies or root paths."""
    for name in names:
        if not (_NAME.fullmatch(name.lower().removeprefix("*.")) or is_address(name)):
            raise UserError(f"demo: --allowed-host is a name such as demo.example.org or *.example.org, not '{name}'")
    for proxy in proxies:
        try:
            ipaddress.ip_network(proxy)
        except ValueError:
            raise UserError(f"demo: --trusted-proxy is an address or network such as 127.0.0.1 or 10.0.0.0/8, not "
                            f"'{proxy}'") from None
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", root) or {".", ".."} & set(root.split("/")):
        raise UserError(f"demo: --root-path is a path such as /demo, not '{root}'")
