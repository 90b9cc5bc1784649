"""A reward that another process serves: `visalign reward serve`, on this machine or another one."""

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import httpx

from visalign.errors import UserError, nearest
from visalign.media.samples import Sample
from visalign.media.source_images import group_of
from visalign.rewards.base import RewardModel, Scores, gather
from visalign.rewards.pairwise import Failure
from visalign.rewards.web.address import check_variable, clean_url, key_in
from visalign.rewards.web.calling import WORTH_RETRYING, Busy, Caller, Queued
from visalign.rewards.web.replies import Unreadable, seconds_of, words_of_page
from visalign.rewards.web.wire import (
    HEALTH_PATH,
    SCORE_PATH,
    OtherVersion,
    ServedReward,
    packed_request,
    read_health,
    read_scores,
    served_reward,
)
from visalign.validation.ranges import BatchSize, Few, Retries, Seconds, Together

REPLY, REPLY_OF_SAMPLE = 1 << 20, 64 << 10
"""Bytes allowed in a reply, and further bytes for each sample."""


@dataclass(kw_only=True)
class RewardCaller(Caller):
    """Calls a reward server."""

    when_slow: ClassVar[str] = "raise timeout, or lower per_request or concurrency"
    setting: ClassVar[str] = "token_env"


class Told:
    """What only the server knows of a reward, or another part of it: the default on the class, that part's word on an
    instance."""

    def __init__(self, default: Any, by: str = "served"):
        self.default, self.by = default, by

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, reward: RewardModel | None, owner: type) -> Any:
        return self.default if reward is None else getattr(getattr(reward, self.by), self.name)


@dataclass
class HttpReward(RewardModel):
    """A reward that `visalign reward serve` serves at another process or machine, with the same scores as here.

    url: of the server, http(s)://HOST:PORT. reward: which of its rewards, where it serves several. dimension: one of
    its dimensions, alone. token_env: the environment variable that holds the server's token. version: the only one
    that is accepted, as /v1/health says it. timeout: seconds for one whole reply. retries: after the first try; waiting
    for a server that is full is none. deadline: seconds for all requests of one call, with all waits. concurrency:
    requests in flight. per_request: samples in each.
    """

    url: str = ""
    reward: str | None = None
    dimension: str | None = None
    token_env: str = "VISALIGN_TOKEN"
    version: str | None = None
    timeout: Seconds = 120.0
    retries: Retries = 4
    deadline: Seconds = 600.0
    concurrency: Together = 4
    per_request: Few = 32
    batch_size: BatchSize = field(default=4096, kw_only=True)

    modalities = Told(frozenset({"image", "video"}))
    dimensions = Told(("score",))
    higher_is_better = Told(True)
    needs_prompt = Told(False)
    needs_sources = Told(False)
    needs_group = Told(False)
    score_range = Told((float("-inf"), float("inf")))

    def __post_init__(self):
        super().__post_init__()
        self.url = clean_url(self.url, (SCORE_PATH, HEALTH_PATH, "/v1"), "http(s)://HOST[:PORT]")
        check_variable("token_env", self.token_env, "token")
        self.caller = RewardCaller(url=self.url, key_env=self.token_env, timeout=self.timeout, retries=self.retries,
                                   concurrency=self.concurrency, deadline=self.deadline)

    @cached_property
    def served(self) -> ServedReward:
        """What the server says of the reward; asked once. Raises UserError where there is no such server or reward."""
        status, body = self.caller.look(HEALTH_PATH, self.name)
        try:
            found = served_reward(read_health(status, body, self.url), self.reward, self.url)
        except UserError as error:
            raise UserError(f"reward {self.name}: {error}") from None
        if self.version not in (None, found.version):
            raise UserError(f"reward {self.name}: version is {self.version}, but {self.url} serves {found.name} of "
                            f"version {found.version}")
        if self.dimension is not None:
            if self.dimension not in found.dimensions:
                raise UserError(f"reward {self.name}: {self.url} gives {found.name} no dimension {self.dimension}"
                                f"{nearest(self.dimension, found.dimensions)}")
            return found.narrowed(self.dimension)
        return found

    def check(self) -> None:
        self.served  # noqa: B018  asking is the check

    def score_batch(self, samples: list[Sample]) -> Scores:
        groups = self._groups(samples)
        parts = self._parts(groups)
        answers = self.caller.every(len(parts), lambda client, i: self._scores(
            client, [samples[k] for k in parts[i]], [groups[k] for k in parts[i]]))
        refused = {k: answer.reason for part, answer in zip(parts, answers, strict=True)
                   if isinstance(answer, Failure) for k in part}
        return gather(len(samples), len(self.dimensions), refused,
                      [(part, answer) for part, answer in zip(parts, answers, strict=True)
                       if not isinstance(answer, Failure)])

    def _groups(self, samples: list[Sample]) -> list[str | None]:
        """The group that each sample is told to be of, None where that is of no account."""
        if self.needs_group:
            numbers = {prompt: str(i) for i, prompt in enumerate(dict.fromkeys(s.source_prompt for s in samples))}
            return [numbers[sample.source_prompt] for sample in samples]
        return [group_of(sample) if sample.sources else None for sample in samples]

    def _parts(self, groups: list[str | None]) -> list[list[int]]:
        """Samples of each request: `per_request` of them, or whole groups where they are compared."""
        whole: dict[Any, list[int]] = {}
        for i, group in enumerate(groups):
            whole.setdefault(group if self.needs_group else i, []).append(i)
        parts: list[list[int]] = []
        for rows in whole.values():
            if not parts or len(parts[-1]) + len(rows) > self.per_request:
                parts.append([])
            parts[-1].extend(rows)
        return parts

    async def _scores(self, client: httpx.AsyncClient, samples: list[Sample],
                      groups: list[str | None]) -> Scores | Failure:
        """One request's scores; in halves where the server says that it is too large."""
        try:
            body = await asyncio.to_thread(packed_request, samples, groups, self.served)
        except UserError as error:
            return Failure(str(error))
        most = REPLY + REPLY_OF_SAMPLE * len(samples)
        status, headers, reply = await self.caller.send(client, SCORE_PATH, body, most)
        key = key_in(self.token_env)
        said = words_of_page(reply, key)
        if status in WORTH_RETRYING:
            wait = seconds_of(headers.get("retry-after"))
            kind = Busy if status != 503 or wait is None else Queued
            raise kind(f"status {status}: {said[:160]}", wait)
        if status == 413 and len(samples) > 1 and not self.needs_group:
            return await self._halves(client, samples, groups)
        if status != 200:
            return Failure(self.caller.turned_away(status, said, headers, key, "")
                           or f"{self.url} answered with status {status}: {said[:200]}")
        try:
            return read_scores(reply, self.served, len(samples), key)
        except Unreadable as error:
            raise Busy(str(error)) from None
        except OtherVersion as error:
            return Failure(str(error))

    async def _halves(self, client: httpx.AsyncClient, samples: list[Sample],
                      groups: list[str | None]) -> Scores | Failure:
        half = len(samples) // 2
        answers, start, refused = [], 0, {}
        for part, of in ((samples[:half], groups[:half]), (samples[half:], groups[half:])):
            rows = list(range(start, start := start + len(part)))
            found = await self._scores(client, part, of)
            if isinstance(found, Failure):
                refused |= dict.fromkeys(rows, found.reason)
            else:
                answers.append((rows, found))
        return gather(len(samples), len(self.dimensions), refused, answers)
