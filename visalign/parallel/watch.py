"""Nobody waits for ever: processes tell each other that they live, what they do, and why one of them ends.

A process that waits for others is inside a library and hears nothing. A thread of it therefore looks, over a store of
its own, whether another one told an error, died, or has not moved for too long; it ends the process with one sentence
where the library does not.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

from visalign.errors import UserError
from visalign.parallel.sharing import Doing, Processes

BEAT, SOON, GONE, GRACE = 1.0, 6.0, 60.0, 20.0
"""Seconds between signs of life; without one that mean death where a connection was lost, and otherwise; until a
process that is inside a library is ended."""

LOST = (RuntimeError, OSError)
"""What a store raises that cannot be reached or waits in vain (torch's DistError is a RuntimeError)."""


class Watch:
    """Signs of life of all processes. wait: seconds in which nobody moved after which the run ends."""

    def __init__(self, processes: Processes, wait: float):
        import torch.distributed as dist

        self.processes, self.wait = processes, wait
        address = processes.told_by_first(self._host)
        if not processes.is_first:
            self.store = dist.TCPStore(*address, is_master=False, timeout=timedelta(seconds=GRACE))
        self._others = [rank for rank in range(processes.world) if rank != processes.rank]
        self._signs = dict.fromkeys(self._others, ("", time.monotonic()))
        self._moved = time.monotonic()
        self._mine = -1
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watch")
        self._thread.start()

    def _host(self) -> tuple[str, int]:
        import torch.distributed as dist

        name = os.environ.get("MASTER_ADDR", socket.gethostname())
        self.store = dist.TCPStore(name, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=GRACE))
        return name, self.store.port

    def _watch(self) -> None:
        since = None
        while not self._done.wait(BEAT):
            try:
                why = self._look()
            except LOST:  # the store is the first process's
                why = self._lost()
            if why is None:
                since = None
                continue
            since = since or time.monotonic()
            if time.monotonic() - since > GRACE and not self._done.is_set():
                os.write(2, f"\nvisalign: {why}\n".encode())
                os._exit(1)

    def _look(self) -> str | None:
        """Why this process cannot go on, as far as is known."""
        now = time.monotonic()
        self.store.set(f"sign/{self.processes.rank}", f"{now}|{Doing.moves}|{Doing.what}|{socket.gethostname()}")
        for rank in self._others:
            if self.store.check([f"sign/{rank}"]):
                sign = self.store.get(f"sign/{rank}").decode()
                old = self._signs[rank][0]
                if sign != old:
                    self._signs[rank] = (sign, now)
                if sign.split("|")[1:3] != old.split("|")[1:3]:
                    self._moved = now
        if Doing.moves != self._mine:
            self._mine, self._moved = Doing.moves, now
        if self.store.check(["told"]):
            self.store.set(f"heard/{self.processes.rank}", "1")
            return self.store.get("told").decode()
        return self._dead(GONE) or self._still(now)

    def _dead(self, after: float) -> str | None:
        quiet = [rank for rank, (_, seen) in self._signs.items() if time.monotonic() - seen > after]
        if not quiet:
            return None
        return f"{self._named(quiet)} ended without a word or lost the connection (killed, out of memory, or a " \
               "machine went away); the same command with --resume continues"

    def _still(self, now: float) -> str | None:
        if now - self._moved <= self.wait:
            return None
        last = "; ".join(f"process {rank}: {sign.split('|')[2] or 'nothing yet'}"
                         for rank, (sign, _) in sorted(self._signs.items()))
        return f"no process moved for {self.wait / 60:g} minutes (train.wait_minutes), while this one, process " \
               f"{self.processes.rank}, was at: {Doing.what}; the others were at: {last}"

    def _lost(self) -> str:
        return f"{self._named([0])} ended without a word or lost the connection; the same command with --resume " \
               "continues"

    def _named(self, ranks: list[int]) -> str:
        hosts = {rank: (self._signs.get(rank, ("", 0))[0].split("|") + [""] * 4)[3] for rank in ranks}
        return " and ".join(f"process {rank} of {self.processes.world}" + (f" on {hosts[rank]}" if hosts[rank] else "")
                            for rank in ranks)

    def tell(self, sentence: str) -> None:
        """Let the others end with the same sentence, and wait until they have heard it."""
        with contextlib.suppress(*LOST):  # whoever hosts the store may have gone
            self.store.compare_set("told", "", sentence)
            end = time.monotonic() + GRACE / 2
            while time.monotonic() < end and not self.store.check([f"heard/{rank}" for rank in self._others]):
                time.sleep(BEAT / 4)

    def cause(self) -> str:
        """Why a connection to another process was lost."""
        end = time.monotonic() + 2 * SOON
        while time.monotonic() < end:
            try:
                why = self._look() or self._dead(SOON)
            except LOST:
                return self._lost()
            if why:
                return why
            time.sleep(BEAT / 4)
        return "the connection to another process was lost; the same command with --resume continues"

    def meet(self, name: str, seconds: float) -> bool:
        """Whether all processes come to this point in time."""
        try:
            self.store.set(f"{name}/{self.processes.rank}", "1")
            self.store.wait([f"{name}/{rank}" for rank in range(self.processes.world)], timedelta(seconds=seconds))
        except LOST:
            return False
        return True

    def close(self) -> None:
        self._done.set()


class _Running:
    watch: Watch | None = None


@contextlib.contextmanager
def watched(processes: Processes, wait: float) -> Iterator[None]:
    """A context in which all processes end together, each with the same sentence, when one of them cannot go on."""
    if processes.world == 1:
        yield
        return
    watch = _Running.watch = Watch(processes, wait)
    try:
        yield
    except Exception as error:
        if is_lost_connection(error):
            raise UserError(watch.cause()) from error
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        watch.tell(f"{' '.join(said.split())} (process {processes.rank})")
        raise
    finally:
        watch.close()
        _Running.watch = None


def met(name: str, seconds: float) -> bool:
    """Whether all processes come to this point in time; False where nobody watches."""
    return _Running.watch is not None and _Running.watch.meet(name, seconds)


def is_lost_connection(error: Exception) -> bool:
    """Whether a library gave up waiting for another process."""
    import torch.distributed as dist

    words = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out waiting", "Broken pipe")
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and not isinstance(error, UserError) and any(w in str(error) for w in words))
