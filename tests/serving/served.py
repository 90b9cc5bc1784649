"""A reward server of this process on loopback, for tests."""

import contextlib
import socket
import threading
import time

import uvicorn

from visalign.rewards.registry import load_rewards
from visalign.serving.app import make_app
from visalign.serving.panel import RewardPanel
from visalign.serving.settings import ServeSettings


@contextlib.contextmanager
def served(*rewards, **settings):
    """The address of a server of these rewards, specifications or rewards themselves, in a thread."""
    panel = RewardPanel(load_rewards(list(rewards)))
    listening = socket.create_server(("127.0.0.1", 0))
    app = make_app(panel, ServeSettings(**{"wait_ms": 2.0} | settings))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
