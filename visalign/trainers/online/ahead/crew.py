"""The thread that keeps workers busy while the learner learns: it gives batches, hears answers, and replaces the lost.

Everything that can go wrong ends in `take`, where the learner waits: as one sentence where a user can act.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from visalign.config.online import RolloutActorSettings
from visalign.errors import UserError
from visalign.parallel.sharing import doing
from visalign.trainers.online.ahead.packing import Complaint, DrawnBatch, Ready
from visalign.trainers.online.ahead.schedule import Batch, Schedule
from visalign.trainers.online.epochs import BatchRequest

LISTENS, LOOKS = 0.2, 0.5
"""Seconds that the thread listens at most before it looks at the clock, and that the learner waits before it looks
whether the thread has come to its end."""


class Gone(NamedTuple):
    """Why a worker gives no answer, as what it did: "died (...)"."""

    why: str


class Pool(Protocol):
    """Workers by number."""

    def open(self) -> contextlib.AbstractContextManager:
        """A context in which there may be workers."""
        ...

    def start(self, worker: int) -> None:
        """Ask for a worker; it answers Ready or Complaint."""
        ...

    def publish(self, version: int, weights: bytes) -> None:
        """Lay out weights for all workers, unless they are."""
        ...

    def forget(self, before: int) -> None:
        """Versions before this one are needed no more."""
        ...

    def send(self, worker: int, request: BatchRequest, version: int) -> None:
        """A batch for a worker; it answers DrawnBatch or Complaint."""
        ...

    def hear(self, seconds: float) -> list[tuple[int, Ready | DrawnBatch | Complaint | Gone]]:
        """Answers since the last call, waiting for the first one for at most so long."""
        ...

    def drop(self, worker: int) -> None:
        """End a worker, and hear nothing from it any more."""
        ...


class Crew:
    """identity: what a worker must say that it holds."""

    def __init__(self, pool: Pool, settings: RolloutActorSettings, identity: Callable[[], str],
                 clock: Callable[[], float] = time.monotonic):
        self.pool, self.settings, self.identity, self.clock = pool, settings, identity, clock
        self.schedule = Schedule(settings.replacements)
        self._requests: dict[Batch, BatchRequest] = {}
        self._moved, self._closed = threading.Condition(), threading.Event()
        self._error: BaseException | None = None

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """A context in which workers draw what was begun."""
        with self.pool.open():
            self._identity = self.identity()
            for worker in range(self.settings.actors):
                self._start(worker)
            thread = threading.Thread(target=self._work, daemon=True, name="rollouts")
            thread.start()
            try:
                yield
            finally:
                self._closed.set()
                thread.join(timeout=10 * LISTENS)

    def begin(self, epoch: int, requests: list[BatchRequest], version: int, weights: bytes) -> None:
        """An epoch is to be drawn with these weights."""
        self.pool.publish(version, weights)
        with self._moved:
            self._requests |= {Batch(epoch, number): request for number, request in enumerate(requests)}
            self.schedule.begin(epoch, len(requests), version)

    def take(self, epoch: int, told: Callable[[int], Any]) -> list[DrawnBatch]:
        """The batches of an epoch, once all are there; `told` how many are. Raises UserError when they never will be.
        """
        with self._moved:
            while self._error is None:
                told(self.schedule.count(epoch))
                found = self.schedule.take(epoch)
                if found is not None:
                    self._requests = {batch: each for batch, each in self._requests.items() if batch.epoch != epoch}
                    return found
                self._moved.wait(LOOKS)
        raise self._error

    def _work(self) -> None:
        try:
            while not self._closed.is_set():
                with self._moved:
                    for worker, batch, version in self.schedule.give(self.clock()):
                        self.pool.send(worker, self._requests[batch], version)
                heard = self.pool.hear(LISTENS)
                with self._moved:
                    for worker, answer in heard:
                        self._hear(worker, answer)
                    self._look()
                    self._moved.notify_all()
        except BaseException as error:  # the learner raises it
            with self._moved:
                self._error = error
                self._moved.notify_all()

    def _hear(self, worker: int, answer: Ready | DrawnBatch | Complaint | Gone) -> None:
        doing()
        if isinstance(answer, Gone):
            self._replace(worker, answer.why)
        elif isinstance(answer, Complaint):
            place = self.schedule.workers[worker].place
            raise UserError(f"{answer.sentence} (rollout actor {worker + 1}{f' on {place}' if place else ''})")
        elif isinstance(answer, Ready):
            if answer.identity != self._identity:
                raise UserError(f"rollout actor {worker + 1} on {answer.place}: has other frozen weights or other "
                                "versions of packages than the learner; install the same there, and the same model")
            self.schedule.ready(worker, answer.place)
        elif not self.schedule.done(worker, answer.version, answer):
            self._replace(worker, f"answered with version {answer.version} of the weights, which was not asked for")

    def _look(self) -> None:
        minutes = self.settings.wait_minutes
        for worker in self.schedule.late(self.clock(), 60 * minutes):
            what = "not drawn its batch" if self.schedule.workers[worker].ready else \
                "not started (is there room for rollout.ray.cpus and rollout.ray.gpus?)"
            self._replace(worker, f"has {what} within rollout.ray.wait_minutes {minutes:g}")

    def _replace(self, worker: int, why: str) -> None:
        self.schedule.lose(worker, why)
        self.pool.drop(worker)
        self._start(worker)

    def _start(self, worker: int) -> None:
        self.schedule.start(worker, self.clock())
        self.pool.start(worker)
