"""All processes of a run come together at its start, or each says who is missing."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

from visalign.errors import UserError

START = timedelta(minutes=10)
"""For the slowest process to be there, as torchrun waits for machines."""
LEAVE = 2.0
"""Seconds in which the others can still ask the first process who is missing."""


@contextlib.contextmanager
def all_met(limit: timedelta = START) -> Iterator[None]:
    """A context in which every process that was to be started is there.

    Raises UserError when the first process cannot be reached, its port is taken, or others do not come.
    """
    rank, world = (int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    if world == 1:
        yield
        return
    import torch.distributed as dist

    store = dist.PrefixStore("meeting", _store(rank, world, limit))
    store.set(str(rank), "here")
    try:
        store.wait([str(each) for each in range(world)], limit)
    except (dist.DistError, RuntimeError):
        raise UserError(f"processes: {world} were to be started (WORLD_SIZE), and {_missing(store, world)} did not "
                        f"come within {_words(limit)}; start as many on each machine as it says, each with its own "
                        "RANK") from None
    yield


def _store(rank: int, world: int, limit: timedelta):
    """What torch's processes meet at, the first one's or its launcher's."""
    import torch.distributed as dist

    host, port = os.environ.get("MASTER_ADDR", ""), int(os.environ.get("MASTER_PORT", "0"))
    hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    where = f"{host}:{port} (MASTER_ADDR, MASTER_PORT)"
    try:
        if not hosts:
            _reach(host, port, limit)
        return dist.TCPStore(host, port, world, hosts, limit, wait_for_workers=False, multi_tenant=True)
    except (dist.DistError, OSError) as error:
        if hosts:
            raise UserError(f"processes: the first process cannot listen at {where}, most likely since another program "
                            "does; choose another port (accelerate launch --main_process_port, torchrun --master_port)"
                            ) from None
        raise UserError(f"processes: process {rank} of {world} did not reach the first one at {where} within "
                        f"{_words(limit)} ({' '.join(str(error).split())[:80]}); is it started, and is that its "
                        "address and a port that is open?") from None


def _reach(host: str, port: int, limit: timedelta) -> None:
    """Wait until somebody listens there; torch would wait with a page of text. Raises OSError."""
    end = time.monotonic() + limit.total_seconds()
    while True:
        try:
            socket.create_connection((host, port), timeout=max(1.0, end - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def _missing(store, world: int) -> str:
    try:
        missing = [str(each) for each in range(world) if not store.check([str(each)])]
        time.sleep(LEAVE)
    except RuntimeError:  # the first process was no longer there
        missing = []
    return f"process {' and '.join(missing)}" if missing else "others"


def _words(limit: timedelta) -> str:
    return f"{limit.total_seconds() / 60:g} minutes"
