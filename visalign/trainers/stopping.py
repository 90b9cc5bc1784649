"""SIGINT and SIGTERM: work ends where nothing is lost and says how to go on; a second signal ends it at once.

A signal interrupts what runs, as Ctrl-C does in every Python program, except within `postponed`: there it is only
noted, and comes at its end, unless whoever postponed it has asked (`asked`) and ended before.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

_AGAIN = 1.0
"""Seconds after which a further signal is a second one: launchers pass on what the terminal has already sent."""


class _Heard:
    number, since, depth, raised = 0, 0.0, 0, False


_heard = _Heard()


class Stopped(KeyboardInterrupt):
    """Raised by a signal. message: how to go on, where somebody knows it."""

    def __init__(self, number: int, message: str = ""):
        super().__init__(message)
        self.number, self.message = number, message
        _heard.raised = True

    @property
    def exit_code(self) -> int:
        return 128 + self.number


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Within: both signals are heard as above; only the main thread can hear them."""
    if threading.current_thread() is not threading.main_thread() or _handles():
        yield
        return
    before = {number: signal.signal(number, _hear) for number in (signal.SIGINT, signal.SIGTERM)}
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
    if _heard.number:
        if now - _heard.since > _AGAIN:
            _say("visalign: stopped at once")
            os._exit(128 + number)
        return
    _heard.number, _heard.since = number, now
    if not _heard.depth:
        raise Stopped(number)
    _say("visalign: asked to stop; the step that runs is finished and kept first (again: at once)")


def _say(text: str) -> None:
    os.write(2, f"\n{text}\n".encode())  # print may be what was interrupted


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Within: a signal is noted and interrupts nothing; it comes when this is left."""
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
