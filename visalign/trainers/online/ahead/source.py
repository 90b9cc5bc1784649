"""Epochs drawn by workers, at most `rollout.staleness` epochs ahead of what the learner has learnt.

When epoch e is about to be learnt from, the weights are version e and the epochs up to e + k may be drawn; what is not
begun yet begins. With k = 0 learner and workers take turns, and samples are those of the learner's own process.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from tqdm import tqdm

from visalign.storage.out_of_memory import give_back
from visalign.trainers.online.ahead.crew import Crew, Pool
from visalign.trainers.online.ahead.packing import DrawnBatch, packed_weights, unpacked_samples
from visalign.trainers.online.ahead.schedule import begun_with, drawn_with
from visalign.trainers.online.collect import (
    RolloutBatch,
    RolloutParts,
    gathered_features,
    gathered_watched,
    votes_as_rewards,
)
from visalign.trainers.online.epochs import BatchRequest
from visalign.trainers.online.rollout import Trajectory
from visalign.trainers.online.scoring import check_scored, first_reason


class WeightHistory:
    """The newest `keep` versions of the trained weights, as bytes: a resumed run draws again what was ahead."""

    def __init__(self, keep: int):
        self.keep = keep
        self.versions: dict[int, bytes] = {}

    def add(self, version: int, weights: bytes) -> None:
        self.versions[version] = weights
        self.versions = {each: self.versions[each] for each in sorted(self.versions)[-self.keep:]}

    def state_dict(self) -> dict:
        return {"versions": {version: torch.frombuffer(bytearray(weights), dtype=torch.uint8)
                             for version, weights in self.versions.items()}}

    def load_state_dict(self, state: dict) -> None:
        self.versions = {version: each.numpy().tobytes() for version, each in state["versions"].items()}


class RolloutsAhead:
    """A source of rollouts over a pool of workers."""

    def __init__(self, parts: RolloutParts, pool: Pool):
        self.parts, self.pool, self.staleness = parts, pool, parts.config.rollout.staleness
        self.epochs, self.conditions = parts.epochs, parts.conditions
        self.history = WeightHistory(self.staleness + 1)
        self.kept: dict[str, Any] = {"rollout_weights": self.history} if self.staleness else {}
        self._begun: dict[int, list[BatchRequest]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.crew = Crew(self.pool, self.parts.config.rollout.ray, self._identity)
        with self.crew.working():
            yield

    def _identity(self) -> str:
        from visalign.trainers.online.ahead.worker import frozen_identity

        return frozen_identity(self.parts.sampler, self.conditions)

    def collect(self, epoch: int) -> RolloutBatch:
        started = time.perf_counter()
        with self.parts.policy():
            self.history.add(epoch, packed_weights(self.parts.parameters))
        for each in begun_with(epoch, self.staleness, self.parts.config.train.epochs):
            self._begin(each)
        version = drawn_with(epoch, self.staleness)
        self.pool.forget(version)
        prompts, requests = self.epochs.prompts(epoch), self._begun.pop(epoch)
        self.conditions.load(list(dict.fromkeys(prompts)))
        with tqdm(total=len(requests), desc=f"epoch {epoch + 1}: waiting for samples", unit="batch",
                  leave=False) as bar:
            drawn = self.crew.take(epoch, lambda count: bar.update(count - bar.n))
        collected = self._collected(epoch, version, requests, drawn, prompts)
        collected.seconds["waiting_for_rollouts"] = time.perf_counter() - started
        give_back()
        return collected

    def _begin(self, epoch: int) -> None:
        if epoch not in self._begun:
            self._begun[epoch], version = self.epochs.requests(epoch), drawn_with(epoch, self.staleness)
            self.crew.begin(epoch, self._begun[epoch], version, self.history.versions[version])

    def _collected(self, epoch: int, version: int, requests: list[BatchRequest], drawn: list[DrawnBatch],
                   prompts: list[str]) -> RolloutBatch:
        samples: dict[int, Trajectory] = {}
        seconds: Counter[str] = Counter()
        for request, batch in zip(requests, drawn, strict=True):
            samples |= {each.start.place: each for each in unpacked_samples(batch.samples, request.starts)}
            seconds.update(batch.seconds)
            self.parts.generator.passes.update(batch.passes)
        scores = [batch.scores for batch in drawn]
        features = watched = None
        if self.parts.reward_set:
            features, watched = gathered_features(scores), gathered_watched(scores)
            rewards = torch.cat([each.values for each in scores])
            check_scored(rewards, torch.cat([each.failed for each in scores]), self.parts.reward_set,
                         first_reason(scores))
        else:
            rewards = votes_as_rewards(self.epochs)
        images = [one for batch in drawn for one in batch.images]
        return RolloutBatch(samples, rewards, self.epochs.groups, prompts, images, dict(seconds),
                            requests[0].stochastic, version, features, watched)
