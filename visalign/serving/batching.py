"""Batches across requests: a queue, and the one thread that has the models."""

import asyncio
import contextlib
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from visalign.serving.metrics import Metrics
from visalign.serving.panel import Answered, RewardPanel, Task

AHEAD = 2
"""Batches that the thread is given: the one that it scores and the next, so that it never waits for the loop."""


@dataclass
class Waiting:
    """A task in the queue, with the future of its answer."""

    task: Task
    done: asyncio.Future
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Scores tasks of all requests together, at most `batch` samples at once.

    A batch begins when it is full, or when the thread has nothing to do and the oldest task has waited `wait` seconds.
    """

    def __init__(self, panel: RewardPanel, batch: int, wait: float, metrics: Metrics):
        self.panel, self.batch, self.wait, self.metrics = panel, batch, wait, metrics
        self._waiting: deque[Waiting] = deque()
        self._given = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")

    async def start(self) -> None:
        self._changed = asyncio.Event()
        self._loop = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """End once everything that was asked for is answered."""
        while self._waiting or self._given:
            await self._change(None)
        self._loop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._loop
        self._thread.shutdown()

    async def score(self, tasks: list[Task]) -> list[Answered]:
        """The answers of one request's tasks."""
        waiting = [Waiting(task, asyncio.get_running_loop().create_future()) for task in tasks]
        self._waiting.extend(waiting)
        self._changed.set()
        return [await each.done for each in waiting]

    async def _work(self) -> None:
        while True:
            if not self._waiting or self._given >= AHEAD:
                await self._change(None)
            elif not self._full() and (self._given or (left := self._waiting[0].since + self.wait
                                                       - time.monotonic()) > 0):
                await self._change(None if self._given else left)
            else:
                self._give(self._cut())

    async def _change(self, seconds: float | None) -> None:
        """Wait until something changes, or `seconds`."""
        self._changed.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    def _full(self) -> bool:
        count = 0
        for each in self._waiting:
            count += len(each.task.samples)
            if count >= self.batch:
                return True
        return False

    def _cut(self) -> list[Waiting]:
        """The tasks of the next batch: at most `batch` samples, or one group that is larger."""
        taken, count = [], 0
        while self._waiting and (not taken or count + len(self._waiting[0].task.samples) <= self.batch):
            taken.append(self._waiting.popleft())
            count += len(taken[-1].task.samples)
        return taken

    def _give(self, batch: list[Waiting]) -> None:
        self._given += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, self._score, batch)
        future.add_done_callback(lambda done: self._answer(batch, done))

    def _score(self, batch: list[Waiting]) -> list[Answered]:
        started = time.perf_counter()
        answers = self.panel.score([each.task for each in batch])
        self.metrics.batch(sum(len(each.task.samples) for each in batch), time.perf_counter() - started, answers)
        return answers

    def _answer(self, batch: list[Waiting], scored: asyncio.Future) -> None:
        self._given -= 1
        self._changed.set()
        error = scored.exception()
        for each, answer in zip(batch, [None] * len(batch) if error else scored.result(), strict=True):
            if each.done.done():  # its client has left
                continue
            each.done.set_exception(error) if error else each.done.set_result(answer)
