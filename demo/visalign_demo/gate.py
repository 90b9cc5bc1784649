"""What a request must be before the app sees it: for a route that the page uses, from this page, by a known name.

Everything else of the framework's many routes (proxies, deep links, recordings, editors) is closed: a route is open
because it stands here.
"""

import re

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from visalign_demo.claims import API

_OPEN = {
    "GET": re.compile(rf"/|/config/?|/theme\.css|/manifest\.json|/robots\.txt|/favicon\.ico|/(static|assets|svelte)/.*"
                      rf"|/(media|report)/.*|{API}/(info/?|app_id/?|theme\.css|upload_progress|queue/data|heartbeat/.+"
                      rf"|call/[^/]+/[^/]+|file=.+)"),
    "POST": re.compile(rf"{API}/(upload|queue/join|(run|api|call)/[^/]+/?|cancel|reset/?)"),
}
_OPEN["HEAD"] = _OPEN["GET"]


class Gate:
    """Middleware: closes every route but those of the page."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope):
            await PlainTextResponse("Not found.", 404)(scope, receive, send)
        elif scope["type"] != "websocket":
            await self.app(scope, receive, send)


def is_open(scope: Scope) -> bool:
    allowed = _OPEN.get(scope["method"])
    return allowed is not None and allowed.fullmatch(scope["path"]) is not None \
        and b"deep_link" not in scope["query_string"]
