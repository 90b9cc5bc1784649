"""Batches prepared in threads, a few units ahead of training."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Prefetch(Generic[Made]):
    """`prefetch[i]` is the data of unit i, requested in order. `plan(i)` decides at once, in the caller's thread, what
    to read, and returns the call that a thread makes. last: the unit before which it ends. waited: seconds that the
    caller spent waiting."""

    def __init__(self, plan: Callable[[int], Callable[[], Made]], last: int, workers: int, ahead: int = 3):
        self._plan, self._last, self._ahead = plan, last, ahead
        self._pool = ThreadPoolExecutor(workers)
        self._waiting: dict[int, Future[Made]] = {}
        self.waited = 0.0

    def __getitem__(self, index: int) -> Made:
        for later in range(index, min(index + 1 + self._ahead, self._last)):
            if later not in self._waiting:
                self._waiting[later] = self._pool.submit(self._plan(later))
        started = time.perf_counter()
        try:
            return self._waiting.pop(index).result()
        finally:
            self.waited += time.perf_counter() - started

    def __enter__(self) -> "Prefetch[Made]":
        return self

    def __exit__(self, *error) -> None:
        self._pool.shutdown(cancel_futures=True)
