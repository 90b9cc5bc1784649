"""Workers as actors of a Ray cluster. The one file of training that calls Ray."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from visalign.config import OnlineConfig
from visalign.errors import UserError
from visalign.parallel.ray_cluster import cluster
from visalign.trainers.online.ahead.crew import Gone
from visalign.trainers.online.ahead.packing import Complaint, DrawnBatch, Ready
from visalign.trainers.online.epochs import BatchRequest

_T = TypeVar("_T")
_IDLE = 0.05


class RayPool:
    """device: of the learner, which the actors' GPUs follow."""

    def __init__(self, config: OnlineConfig, device: str):
        self.config, self.settings, self.device = config, config.rollout.ray, device
        self.gpus = float(device.startswith("cuda")) if self.settings.gpus is None else self.settings.gpus
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}
        self._weights: dict[int, Any] = {}

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        with cluster(self.settings.address, setting="rollout.engine ray", store_gib=self.settings.store_gib,
                     gpus=gpus_beside(self.device)) as self.ray:
            self._check_room()
            self._kind = self.ray.remote(num_cpus=self.settings.cpus, num_gpus=self.gpus, max_restarts=0)(_Actor)
            try:
                yield
            finally:
                for worker in list(self._actors):
                    self.drop(worker)
                self._weights.clear()

    def _check_room(self) -> None:
        """Raise UserError when a Ray of this machine cannot hold the actors; a cluster may grow."""
        if self.settings.address or os.environ.get("RAY_ADDRESS"):
            return
        there, count = self.ray.cluster_resources(), self.settings.actors
        for name, each in (("CPU", self.settings.cpus), ("GPU", self.gpus)):
            if count * each > there.get(name, 0.0):
                raise UserError(f"rollout.ray.{name.lower()}s {each:g}: {count} actors (rollout.ray.actors) ask "
                                f"for {count * each:g} of {name}, and Ray on this machine has "
                                f"{there.get(name, 0.0):g}; lower one of them")

    def start(self, worker: int) -> None:
        actor = self._kind.remote(self.config, os.getcwd(), torch.get_num_threads())
        self._actors[worker] = actor
        self._asked[actor.prepare.remote()] = worker

    def publish(self, version: int, weights: bytes) -> None:
        if version in self._weights:
            return
        try:
            self._weights[version] = self.ray.put(weights)
        except self.ray.exceptions.RayError as error:
            size = len(weights) / 2**20
            raise UserError(f"rollout.ray.store_gib: {size:.0f} MiB of weights could not be laid out for the actors "
                            f"({first_sentence(error)}); give Ray's object store more memory") from error

    def forget(self, before: int) -> None:
        self._weights = {version: each for version, each in self._weights.items() if version >= before}

    def send(self, worker: int, request: BatchRequest, version: int) -> None:
        answer = self._actors[worker].sample.remote(request, version, [self._weights[version]])
        self._asked[answer] = worker

    def hear(self, seconds: float) -> list[tuple[int, Any]]:
        if not self._asked:
            time.sleep(min(seconds, _IDLE))
            return []
        answered, _ = self.ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        return [(self._asked.pop(answer), self._answer(answer)) for answer in answered]

    def _answer(self, answer: Any) -> Ready | DrawnBatch | Complaint | Gone:
        errors = self.ray.exceptions
        try:
            return self.ray.get(answer, timeout=60 * self.settings.wait_minutes)
        except errors.RayTaskError:  # a fault of this program's, with what it says of itself
            raise
        except errors.RayError as error:  # whatever keeps an answer away: its process, machine or memory is gone
            return Gone(f"died ({first_sentence(error)})")

    def drop(self, worker: int) -> None:
        self._asked = {answer: number for answer, number in self._asked.items() if number != worker}
        self.ray.kill(self._actors.pop(worker))


class _Actor:
    """A worker in a process of Ray's. What a user can fix comes back as a value: Ray would wrap an exception."""

    def __init__(self, config: OnlineConfig, folder: str, threads: int):
        from visalign.trainers.online.ahead.worker import RolloutWorker

        self.wait = 60 * config.rollout.ray.wait_minutes
        self.worker = RolloutWorker(config, folder, threads)

    def prepare(self) -> Ready | Complaint:
        return answer_of(self.worker.prepare)

    def sample(self, request: BatchRequest, version: int, weights: list) -> DrawnBatch | Complaint:
        import ray

        return answer_of(lambda: self.worker.sample(request, version, lambda: ray.get(weights[0], timeout=self.wait)))


def answer_of(work: Callable[[], _T]) -> _T | Complaint:
    """What `work` gives, or in one sentence why it cannot."""
    try:
        return work()
    except UserError as error:
        return Complaint(str(error))


def gpus_beside(device: str) -> str | None:
    """The GPUs of this machine that the learner leaves to others, as CUDA_VISIBLE_DEVICES; None: it has at most one."""
    if not device.startswith("cuda"):
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]
    mine = torch.device(device).index or 0
    return ",".join(each for i, each in enumerate(visible) if i != mine) or None


def first_sentence(error: BaseException) -> str:
    """What an error says first, or the exception that it ends with, on one line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[-1] if re.match(r"\w+(Error|Exception): ", lines[-1]) else lines[0].split(". ")[0]
    return " ".join(said.split()).rstrip(".")[:200]
