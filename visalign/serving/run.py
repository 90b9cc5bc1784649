"""Starting a reward server, and ending it once everything that was asked for is answered."""

import contextlib
import logging
import socket
from collections.abc import Callable

from visalign.errors import UserError
from visalign.rewards.registry import load_rewards
from visalign.serving.app import make_app
from visalign.serving.panel import LOG, RewardPanel
from visalign.serving.settings import ServeSettings, is_this_machine

GRACE = 600
"""Seconds in which requests are answered after the server was asked to stop."""


def serve_rewards(specs: list, settings: ServeSettings, device: str, say: Callable[[str], None]) -> None:
    """Serve until a signal; `say` gets a line once the server is ready, and one at its end.

    Raises UserError for rewards that cannot be loaded, or an address that cannot be had.
    """
    settings.check()
    try:
        with listen(settings) as listening:
            panel = RewardPanel(load_rewards(specs, device))
            panel.load()
            say(_served(panel, settings, listening, say))
    except KeyboardInterrupt:
        say("stopped before it was ready")


def _served(panel: RewardPanel, settings: ServeSettings, listening: socket.socket, say: Callable[[str], None]) -> str:
    """Serve a loaded panel; how it ended, in words."""
    import uvicorn

    if not LOG.handlers:
        LOG.addHandler(logging.StreamHandler())
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    named = ", ".join(f"{each.name} ({' and '.join(sorted(each.modalities))}, version {each.version})"
                      for each in panel.served.values())

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(f"serving {named} at http://{host}:{listening.getsockname()[1]}")

    server = Server(uvicorn.Config(make_app(panel, settings), log_level="warning", access_log=False, lifespan="on",
                                   timeout_graceful_shutdown=GRACE, server_header=False, ws="none",
                                   proxy_headers=False))
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn has ended in peace, and passes the signal on
        server.run([listening])
    if not server.started:
        raise UserError("the server could not be started; the lines above say why")
    return "stopped at once" if server.force_exit else "stopped: every request that had come in was answered"


def listen(settings: ServeSettings) -> socket.socket:
    """A socket at the server's address. Raises UserError where it cannot be had."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        other = "" if is_this_machine(settings.host) else ", or --host an address of this machine"
        raise UserError(f"--port {settings.port}: {settings.host}:{settings.port} cannot be had ({error.strerror}); "
                        f"choose another port{other}") from None
    return listening
