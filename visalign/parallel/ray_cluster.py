"""Joining a Ray cluster, or starting one on this machine; the one place that calls `ray.init`.

It says nothing about this machine to anybody, opens no dashboard, waits for no head that does not answer, and leaves
signals with those who handled them.
"""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

from visalign.errors import UserError

HEAD_SECONDS = 30.0
"""In which a head must answer."""

_GIB = 2**30
_ASK = ("-m", "ray.scripts.scripts", "status", "--address")


def check_ray(setting: str) -> None:
    """Raise UserError, beginning with the `setting` that needs it, where ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"{setting} needs the package ray: pip install 'visalign[ray]'")


def connect(address: str | None = None, *, setting: str = "engine ray", wait: float = HEAD_SECONDS,
            cores: int | None = None, store_gib: float | None = None, gpus: str | None = None) -> Any:
    """The module ray, with a cluster; one that this process has joined already is used as it is.

    address: HOST:PORT of its head; None is the variable RAY_ADDRESS, else a Ray of this machine alone, which ends with
    this process. setting: what asked for it, in words. cores, store_gib: of a Ray of this machine, by default all
    cores and Ray's own choice of memory for results. gpus: which of its GPUs Ray may give away, as
    CUDA_VISIBLE_DEVICES says it. Raises UserError when ray is not installed, or there is no cluster within `wait`.
    """
    check_ray(setting)
    if _joined():
        return sys.modules["ray"]
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "num_cpus": cores,
                   "object_store_memory": None if store_gib is None else int(store_gib * _GIB)}
    else:
        _check_head(address, wait)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    with _signals_kept(), _devices(gpus if address == "local" else None):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
        except (Exception, SystemExit) as error:  # whatever keeps a cluster away is said alike
            what = "a Ray on this machine" if address == "local" else f"Ray at {address}"
            raise UserError(f"{setting}: {what} could not be used ({_first_line(error)})") from error
    return ray


@contextlib.contextmanager
def cluster(address: str | None = None, **options: Any) -> Iterator[Any]:
    """A context with the module ray and a cluster as of `connect`, which is left afterwards if it was joined here."""
    joined = _joined()
    ray = connect(address, **options)
    try:
        yield ray
    finally:
        if not joined:
            with _signals_kept():
                ray.shutdown()


def _joined() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def _check_head(address: str, wait: float) -> None:
    """Raise UserError when no head answers: `ray.init` would try for minutes and then end the program."""
    host, _, port = address.rpartition(":")
    if "://" in address or not (host and port.isdigit()):
        raise UserError(f"Ray address {address}: must be HOST:PORT of the cluster's head, such as 10.0.0.1:6379, and "
                        "this command must run on one of its machines")
    try:
        socket.create_connection((host, int(port)), timeout=wait).close()
    except OSError as error:
        raise UserError(f"Ray address {address}: cannot be reached within {wait:g} s ({error.strerror or error}); is "
                        "the head running (ray status), and is this its address and port?") from None
    try:
        asked = subprocess.run([sys.executable, *_ASK, address], capture_output=True, timeout=wait, text=True)
    except subprocess.TimeoutExpired:
        raise UserError(f"Ray address {address}: something is there but does not answer as a Ray head within {wait:g} "
                        "s; is this the head's port (6379 unless it was started with another)?") from None
    if asked.returncode:
        said = asked.stderr.strip().splitlines() or [f"exit code {asked.returncode}"]
        raise UserError(f"Ray address {address}: its head does not answer ({said[-1][:200]})")


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """A context after which SIGTERM and SIGINT are handled as before; Ray takes them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextlib.contextmanager
def _devices(visible: str | None) -> Iterator[None]:
    """A context in which the processes that are started see these GPUs, None: the same as this one."""
    name, before = "CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        yield
        return
    os.environ[name] = visible
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
