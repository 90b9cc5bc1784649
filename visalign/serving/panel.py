"""The rewards of a server: what they are, and scoring in which no sample can fail another."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visalign import __version__
from visalign.errors import UserError, nearest
from visalign.media.samples import Sample
from visalign.rewards.base import Reward, RewardModel
from visalign.rewards.web.wire import SampleScores, ServedReward, rows_of

LOG = logging.getLogger("visalign.serving")
NOT_SCORES = frozenset({"device", "batch_size", "name", "of", "cache", "timeout", "retries", "deadline", "concurrency",
                        "per_request", "key_env", "token_env"})
"""Settings of rewards that do not alter what they say."""
FAILING_AFTER = 3
"""Batches in a row of which not one sample could be scored, after which the server calls itself failing."""
UNKNOWN_REWARD = "no reward {name} is served here{nearest}"


@dataclass(frozen=True)
class Task:
    """Samples that are scored by the same rewards and in one call where a reward compares them: one, or a group."""

    samples: tuple[Sample, ...]
    rewards: tuple[str, ...]


Answered = list[dict[str, SampleScores]]
"""By sample, what each reward says of it."""


class RewardPanel:
    """Rewards by name. failing: why the last FAILING_AFTER batches could not be scored at all, where they could not."""

    def __init__(self, rewards: list[Reward]):
        self.rewards = {reward.name: reward for reward in rewards}
        self.served = {reward.name: ServedReward.of(reward, version_of(reward)) for reward in rewards}
        self.failing: str | None = None
        self._failed = 0

    def load(self) -> None:
        """Load every network, so that the first request does not wait for it."""
        for reward in self.rewards.values():
            for part in wrapped_by(reward):
                if isinstance(part, RewardModel):
                    part.network  # noqa: B018

    def named(self, names: list[str] | None) -> tuple[str, ...]:
        """The rewards asked for, all where none is named. Raises UserError for one that is not served."""
        for name in names or ():
            if name not in self.rewards:
                raise UserError(UNKNOWN_REWARD.format(name=repr(name)[:80], nearest=nearest(name, self.rewards)))
        return tuple(dict.fromkeys(names)) if names else tuple(self.rewards)

    def score(self, tasks: list[Task]) -> list[Answered]:
        """What each task's rewards say of its samples."""
        answers: list[Answered] = [[{} for _ in task.samples] for task in tasks]
        problems: list[str | None] = []
        for name, reward in self.rewards.items():
            asked = [i for i, task in enumerate(tasks) if name in task.rewards]
            for call in [[i] for i in asked] if reward.needs_group else [asked] if asked else []:
                problems += self._score(reward, call, tasks, answers)
        self._failed = self._failed + 1 if all(problems) else 0
        self.failing = problems[-1] if self._failed >= FAILING_AFTER else None
        return answers

    def _score(self, reward: Reward, call: list[int], tasks: list[Task], answers: list[Answered]) -> list[str | None]:
        """One call of a reward; where it raises, each task alone. What went wrong, or None, for each call that counts.
        """
        places = [(i, k) for i in call for k in range(len(tasks[i].samples))]
        try:
            rows, problem = rows_of(reward.score([tasks[i].samples[k] for i, k in places])), None
        except Exception as error:  # a reward may be anyone's code, and a server outlives it
            problem = f"{reward.name} failed with {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if problem and len(call) > 1:
            return [found for i in call for found in self._score(reward, [i], tasks, answers)]
        if problem:
            LOG.warning("reward %s", problem)
            rows = [SampleScores((None,) * len(reward.dimensions), remark=problem)] * len(places)
        for (i, k), row in zip(places, rows, strict=True):
            answers[i][k][reward.name] = row
        return [problem]


def wrapped_by(reward: Reward) -> Iterator[Reward]:
    """A reward and those that it wraps."""
    yield reward
    inner = getattr(reward, "inner", [])
    for each in inner if isinstance(inner, list) else [inner]:
        yield from wrapped_by(each)


def version_of(reward: Reward) -> str:
    """Changes with everything known that may change a reward's scores: settings, the files they name, visalign."""
    digest = hashlib.sha256(__version__.encode())
    for part in wrapped_by(reward):
        settings = {each.name: getattr(part, each.name) for each in dataclasses.fields(part)
                    if each.name not in NOT_SCORES} if dataclasses.is_dataclass(part) else {}
        digest.update(json.dumps([type(part).__qualname__, settings], sort_keys=True, default=str).encode())
        digest.update(str(getattr(part, "served", "")).encode())  # of a reward that another server serves
        for value in settings.values():
            _add_files(digest, value)
    return digest.hexdigest()[:16]


def _add_files(digest: Any, value: Any) -> None:
    """The contents of the file or folder that a setting names, if it does."""
    if not isinstance(value, str | Path) or not str(value).strip():
        return
    try:
        path = Path(value).expanduser()
        files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.is_file() else []
    except (OSError, RuntimeError, ValueError):  # too long for a name, or a user who does not exist: not a path
        return
    for file in files:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    digest.update(block)
