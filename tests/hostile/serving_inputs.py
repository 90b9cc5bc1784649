"""Reward servers that cannot be, and rewards that no server serves."""

import functools
import socket

from tests.hostile.case import Case
from tests.hostile.rewards_inputs import server


@functools.cache
def taken() -> int:
    """A port that is in use until the tests end."""
    listening = socket.create_server(("127.0.0.1", 0))
    _kept.append(listening)
    return listening.getsockname()[1]


_kept: list[socket.socket] = []
TOKEN = {"token": "a-token-of-some-length"}


def refused(name: str, words: str, *says: str, **given: str) -> Case:
    return Case(f"serve-{name}", f"reward serve {words}", says, given=given)


def unserved(name: str, spec: str, *says: str) -> Case:
    """A served reward that an image is not read for."""
    return Case(f"http-{name}", "score . -r there.yaml --no-gallery", says,
                given={"a.png": b"", "there.yaml": f"kind: http\n{spec}\n"})


DEAD = "http://127.0.0.1:9"
CASES = [
    refused("typo", "sharpnes --port 0", "did you mean 'sharpness'"),
    refused("twice", "sharpness sharpness --port 0", "two are named sharpness"),
    refused("nothing", "", "missing argument"),
    refused("open-to-all", "sharpness --host 0.0.0.0", "needs a token", "--token-file"),
    refused("no-token-file", "sharpness --token-file nowhere", "--token-file nowhere", "no such file"),
    refused("short-token", "sharpness --token-file token", "at least 16", token="secret"),
    refused("two-words", "sharpness --token-file token", "one word", token="a token of several words"),
    refused("port-taken", f"sharpness --port {taken()}", f"127.0.0.1:{taken()} cannot be had", "choose another port"),
    refused("port-too-large", "sharpness --port 70000", "65535"),
    refused("somebody-else-s-host", "sharpness --host 203.0.113.7 --token-file token", "cannot be had",
            "address of this machine", **TOKEN),
    refused("no-folder", "sharpness --allow-folder nowhere", "there is no such folder"),
    refused("no-batch", "sharpness --batch 0", "--batch"),
    refused("no-limit", "sharpness --max-mb nan", "nan"),
    refused("of-a-dead-server", f"http:{DEAD} --port 0", "cannot be reached", "start the server"),
    unserved("dead", f"url: {DEAD}", f"{DEAD} cannot be reached", "start the server"),
    unserved("no-url", "", "expected http"),
    unserved("another-program", f"url: {server().url.removesuffix('/v1')}", "as no reward server of visalign does"),
    unserved("never", f"url: {DEAD}\ndeadline: 0", "deadline", "greater than 0"),
    unserved("inside", f"url: {DEAD}\nof: [contrast]", "of"),
    Case("http-inside-a-sum", "score . -r sum.yaml --no-gallery", ("cannot be reached",),
         given={"a.png": b"", "sum.yaml": f"kind: ensemble\nof: [contrast, 'http:{DEAD}']\n"}),
    Case("http-in-a-run", "train r.yaml", ("cannot be reached", "start the server"),
         given={"r.yaml": "model: {source: tiny-sd3}\nobjective: {name: grpo}\nrollout: {prompts: 'emoji:train'}\n"
                          f"reward: {{models: [{{reward: {{kind: http, url: '{DEAD}'}}}}]}}\n"}),
]
