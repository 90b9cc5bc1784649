"""Commands in forks of this process, killed at random moments and continued, and what they end with compared."""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

KILLS_A_RUN = 6
"""After so many kills a run is left to end, so that the next one starts anew."""


@dataclass
class Found:
    """The outcome of the kills of one kind."""

    kind: str
    kills: int = 0
    runs: int = 0
    twice_the_same: bool | None = None
    differing: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict:
        return {"kind": self.kind, "kills": self.kills, "runs": self.runs, "same": self.runs - len(self.differing),
                "run twice": self.twice_the_same, "differing": self.differing, "seconds": round(self.seconds),
                "threads": os.environ.get("OMP_NUM_THREADS", "as many as cores"), "cores": os.cpu_count()}


@dataclass(frozen=True)
class Kind:
    """prepare(root) writes the inputs; command(root, out, again) is what is typed; compared(out) gives what must be the
    same, by name. done: a file of `out` that says that nothing is left to do, where a command refuses to run again."""

    prepare: Callable[[Path], None]
    command: Callable[[Path, Path, bool], list[str]]
    compared: Callable[[Path], dict[str, object]]
    done: str = ""


def start(words: list[str], log: Path) -> int:
    """`visalign words` in a fork; its process number."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return number
    try:
        os.setpgid(0, 0)
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from visalign.cli import main

        main(words)
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
    os._exit(1)


def finished(number: int, seconds: float) -> int | None:
    """The exit code of a process that ends within `seconds`, else None."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def run_whole(words: list[str], log: Path) -> float:
    """Run a command to its end; its seconds. Raises RuntimeError when it fails."""
    begun = time.monotonic()
    code = finished(start(words, log), 3600)
    if code != 0:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {log.read_text(errors='replace')[-2000:]}")
    return time.monotonic() - begun


def prove(name: str, kind: Kind, kills: int, root: Path, chance: random.Random) -> Found:
    """Kill one kind of command `kills` times."""
    found, begun = Found(name), time.monotonic()
    kind.prepare(root)
    log = root / "log.txt"
    lasts = run_whole(kind.command(root, root / "whole", False), log)
    wanted = kind.compared(root / "whole")
    run_whole(kind.command(root, root / "twice", False), log)
    found.twice_the_same = not unlike(wanted, kind.compared(root / "twice"))
    if not found.twice_the_same:
        found.differing.append(f"run twice: {', '.join(unlike(wanted, kind.compared(root / 'twice')))}")
    while found.kills < kills:
        out, here = root / f"cut-{found.runs}", 0
        while True:
            number, since = start(kind.command(root, out, True), log), time.monotonic()
            last = here == KILLS_A_RUN or found.kills == kills
            code = finished(number, 3600 if last else chance.uniform(0, 0.9 * lasts))
            if code is not None:
                break
            os.killpg(number, signal.SIGKILL)
            os.waitpid(number, 0)
            here, found.kills = here + 1, found.kills + 1
            if kind.done and (out / kind.done).exists():
                code = 0
                break
        if not here:  # it was not killed: the machine is faster now than it was
            lasts = min(lasts, time.monotonic() - since)
        found.runs += 1
        wrong = [f"exit code {code} ({last_line(log)})"] if code else unlike(wanted, kind.compared(out))
        if wrong:
            found.differing.append(f"{out.name} after {here} kills: {', '.join(wrong)}")
        print(f"{name}: {found.kills} kills, {found.runs} runs, {len(found.differing)} differ", flush=True)
    found.seconds = time.monotonic() - begun
    return found


def last_line(log: Path) -> str:
    return log.read_text(errors="replace").strip().splitlines()[-1][:300]


def unlike(wanted: dict[str, object], got: dict[str, object]) -> list[str]:
    """Names of what is not the same."""
    return sorted(name for name in wanted.keys() | got.keys() if wanted.get(name) != got.get(name))
