"""Which worker draws which batch, and with which weights: nothing here knows what a worker is, or what time it is.

A batch is with one worker at a time, goes to another when that one is lost, and counts once. Epoch e is drawn with the
weights that epochs 0 .. e-1-k have taught (version e-k), where k is the staleness; version 0 is the start.
"""

import heapq
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from visalign.errors import UserError


def drawn_with(epoch: int, staleness: int) -> int:
    """The version of the weights that an epoch is drawn with: how many epochs they have learnt from."""
    return max(0, epoch - staleness)


def begun_with(epoch: int, staleness: int, epochs: int) -> range:
    """The epochs that may be drawn once `epoch` of `epochs` is about to be learnt from, itself included."""
    return range(epoch, min(epoch + staleness + 1, epochs))


class Batch(NamedTuple):
    """One batch of an epoch; earlier ones come first."""

    epoch: int
    number: int


@dataclass
class Worker:
    """since: when it began to start, or was given its batch. place: where it runs, in words."""

    since: float
    ready: bool = False
    batch: Batch | None = None
    place: str = ""


@dataclass
class Schedule:
    """losses: how many workers may be lost in all."""

    losses: int
    workers: dict[int, Worker] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    _waiting: list[Batch] = field(default_factory=list)
    _versions: dict[int, int] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    _results: dict[int, dict[int, Any]] = field(default_factory=dict)

    def begin(self, epoch: int, batches: int, version: int) -> None:
        """An epoch is to be drawn with these weights; one that was begun before is left alone."""
        if epoch in self._versions:
            return
        self._versions[epoch], self._sizes[epoch], self._results[epoch] = version, batches, {}
        for number in range(batches):
            heapq.heappush(self._waiting, Batch(epoch, number))

    def start(self, worker: int, now: float) -> None:
        """A worker has been asked for."""
        self.workers[worker] = Worker(now)

    def ready(self, worker: int, place: str = "") -> None:
        """A worker may be given batches."""
        self.workers[worker].ready, self.workers[worker].place = True, place

    def give(self, now: float) -> list[tuple[int, Batch, int]]:
        """(worker, batch, version) for every worker that has nothing to do, the oldest batches first."""
        given = []
        for number, worker in sorted(self.workers.items()):
            if worker.ready and worker.batch is None and self._waiting:
                worker.batch, worker.since = heapq.heappop(self._waiting), now
                given.append((number, worker.batch, self._versions[worker.batch.epoch]))
        return given

    def done(self, worker: int, version: int, result: Any) -> bool:
        """Whether a worker's answer counts: not with other weights than were asked for."""
        batch = self.workers[worker].batch
        if batch is None or version != self._versions[batch.epoch]:
            return False
        self._results[batch.epoch][batch.number] = result
        self.workers[worker].batch = None
        return True

    def lose(self, number: int, why: str) -> None:
        """A worker is no more, and its batch is to be drawn again. Raises UserError when too many were lost."""
        worker = self.workers.pop(number)
        if worker.batch is not None:
            heapq.heappush(self._waiting, worker.batch)
        self.lost.append(f"actor {number + 1}{f' on {worker.place}' if worker.place else ''} {why}")
        if len(self.lost) > self.losses:
            raise UserError(f"rollout.ray.replacements {self.losses}: {len(self.lost)} actors were lost, the last one "
                            f"since {self.lost[-1]}; the run stops here, continue it with --resume")

    def late(self, now: float, seconds: float) -> list[int]:
        """The workers that have been starting, or drawing one batch, for longer than this."""
        return [number for number, worker in sorted(self.workers.items())
                if (worker.batch or not worker.ready) and now - worker.since > seconds]

    def count(self, epoch: int) -> int:
        """How many batches of an epoch are there."""
        return len(self._results[epoch])

    def take(self, epoch: int) -> list[Any] | None:
        """An epoch's results in order, once; None while one is lacking."""
        if self.count(epoch) < self._sizes[epoch]:
            return None
        results = self._results.pop(epoch)
        return [results[number] for number in range(self._sizes[epoch])]
