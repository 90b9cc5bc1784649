"""SIGINT, SIGTERM and SIGUSR1: work ends where nothing is lost and says how to go on; a second signal ends it at once.

SIGUSR1 is how a scheduler announces that time is nearly up. It may come several times and from several senders, and
SIGTERM may follow it: neither is a second signal, for nothing is won by losing the step that runs.

A signal interrupts the program, as Ctrl-C does in every Python program, except within `postponed`: there it is only
recorded, and raised at its end, unless the postponing code has checked `asked` and ended before.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

WARNING = getattr(signal, "SIGUSR1", None)
"""A scheduler's warning; Windows has none."""

SIGNALS = tuple(filter(None, (signal.SIGINT, signal.SIGTERM, WARNING)))

_AGAIN = 1.0
"""Seconds after which a further signal counts as a second one: launchers repeat what the terminal has already sent."""


class _Heard:
    number, since, depth, raised = 0, 0.0, 0, False


_heard = _Heard()


class Stopped(KeyboardInterrupt):
    """Raised by a signal. message: how to continue, where known."""

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number, self.message = number, message
        _heard.raised = True

    @property
    def exit_code(self) -> int:
        return 128 + self.number


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """A context in which the signals are handled as above; only in the main thread."""
    if threading.current_thread() is not threading.main_thread() or _handles():
        yield
        return
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _heard.number, _heard.raised = 0, False


def _handles() -> bool:
    return signal.getsignal(signal.SIGTERM) is _hear


def _hear(number: int, frame) -> None:
    now = time.monotonic()
    if _heard.number and WARNING in (number, _heard.number):
        _heard.number, _heard.since = (_heard.number, _heard.since) if number == WARNING else (number, now)
        return
    if _heard.number:
        if now - _heard.since > _AGAIN:
            _say("visalign: stopped at once")
            os._exit(128 + number)
        return
    _heard.number, _heard.since = number, now
    if not _heard.depth:
        raise Stopped(number)
    _say("visalign: asked to stop; the current step is finished and saved first (again: at once)")


def _say(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())  # print may be what was interrupted


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """A context in which a signal is recorded and interrupts nothing; it is raised on leaving."""
    _heard.depth += 1
    try:
        yield
    finally:
        _heard.depth -= 1
    if _heard.number and not _heard.depth and not _heard.raised:
        raise Stopped(_heard.number)


def asked() -> int:
    """The signal that asked this process to stop, 0 when none did."""
    return _heard.number
