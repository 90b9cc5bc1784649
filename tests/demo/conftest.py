"""Two folders of generations to compare, and a server of its own process."""

import json
import socket
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.programs import VISALIGN, Program
from visalign_demo.context import Demo, DemoSettings

PROMPTS = ["a red square", "<script>alert(1)</script> & \"quotes\"", "a blue square"]


def write_folder(folder, shade, seeds=2, prompts=PROMPTS):
    """A folder as `visalign generate` leaves it."""
    folder.mkdir(parents=True)
    rows = []
    for p, prompt in enumerate(prompts):
        for seed in range(seeds):
            name = f"{p}-{seed}.png"
            Image.new("RGB", (24, 24), (shade, 40 * p, 90 * seed)).save(folder / name)
            rows.append(json.dumps({"prompt": prompt, "file": name, "seed": seed}))
    (folder / "samples.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def folders(tmp_path):
    return {name: str(write_folder(tmp_path / "made" / name, shade)) for name, shade in (("plain", 60),
                                                                                         ("tuned", 220))}


@pytest.fixture
def settings(folders, tmp_path):
    return DemoSettings(folders, (), tmp_path / "book", tmp_path / "runs", rewards=("saturation",), pairs=6)


@pytest.fixture
def demo(settings):
    made = Demo(settings)
    made.pool.start()
    made.pool.join(60)
    return made


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(*arguments, port=None):
    """`visalign demo` as a user starts it; yields its address and program."""
    port = port or free_port()
    with tempfile.TemporaryDirectory() as said:
        program = Program(VISALIGN, "demo", *arguments, "--port", port, output=Path(said) / "demo",
                          environment={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
        try:
            wait_for(f"http://127.0.0.1:{port}", program)
            yield f"http://127.0.0.1:{port}", program
        finally:
            program.kill()


def wait_for(address, program, seconds=300):
    for _ in range(seconds * 4):
        assert not program.ended(), f"the demo ended: {program.text()}"
        try:
            if httpx.get(address, timeout=5).status_code in (200, 401):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise AssertionError("the demo did not answer")
