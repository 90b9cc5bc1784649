"""Programs of their own for tests that kill or count processes, forked from one that has imported what they need.

An import of torch and diffusers costs seconds; such a start costs a fraction of one. The first program pays.
"""

import gc
import multiprocessing
import os
import socket
import sys
import traceback
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests", "diffusers", "transformers", "accelerate", "open_clip", "peft",
                                "matplotlib.figure", "gradio", "visalign.cli", "visalign.jobs.train",
                                "visalign.trainers.reward.loop", "visalign.jobs.score",
                                "diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3",
                                "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
                                "diffusers.pipelines.wan.pipeline_wan"])
VISALIGN = "from visalign.cli import main; main()"


class Program:
    """Python code in a process of its own; the code finds `arguments` in sys.argv[1:]."""

    def __init__(self, code: str, *arguments, output: Path, environment: dict[str, str] | None = None):
        self.output = output
        self._process = _SERVER.Process(
            target=_run, args=(code, [str(each) for each in arguments], str(output), environment or {}))
        self._process.start()
        self.pid = self._process.pid

    def ended(self) -> bool:
        return not self._process.is_alive()

    def kill(self) -> None:
        """End it at once, as a machine that loses power."""
        self._process.kill()
        self._process.join()

    def wait(self, seconds: float = 300) -> int:
        """The exit code, negative for a signal."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds} s: {self.text()[-2000:]}"
        return self._process.exitcode

    def text(self) -> str:
        """What it wrote so far, to stdout and then to stderr."""
        return "\n".join(file.read_text(errors="replace") for file in _streams(self.output) if file.exists())


def _streams(output: Path) -> tuple[Path, Path]:
    return output.with_name(output.name + ".out"), output.with_name(output.name + ".err")


def _run(code: str, arguments: list[str], output: str, environment: dict[str, str]) -> None:
    for number, file in enumerate(_streams(Path(output)), 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    gc.freeze()  # what was imported before is no garbage, and stays shared
    gc.enable()
    os.environ.update(environment)
    sys.argv = ["program", *arguments]
    status = 0
    try:
        exec(compile(code, "program", "exec"), {"__name__": "__main__"})
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as a program ends that holds daemon threads: without waiting for them


def environments(count: int) -> list[dict[str, str]]:
    """What torchrun tells each of `count` processes, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def together(code: str, *arguments, folder: Path, count: int = 2) -> str:
    """Run the code in `count` processes that know each other as under torchrun; what they wrote, by rank."""
    programs = [Program(code, *arguments, output=folder / f"output-{rank}", environment=environment)
                for rank, environment in enumerate(environments(count))]
    codes = [program.wait() for program in programs]
    said = "\n".join(program.text() for program in programs)
    assert codes == [0] * count, said[-3000:]
    return said
