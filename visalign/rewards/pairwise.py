"""Rewards that compare: which of two samples is better, instead of a number for each."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.rewards.base import Scores

SURE = 1e-6
"""Probabilities are kept this far from 0 and 1, so that a reward that is certain has finite log-odds (about 14)."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    reason: str


@runtime_checkable
class PairReward(Protocol):
    """A reward that compares two samples of one prompt. As a `Reward` it gives each sample its win rate."""

    def compare(self, pairs: list[tuple[Sample, Sample]]) -> list[float | Failure]:
        """Probability that the first of each pair is better."""
        ...


def log_odds(outcomes: list[float | Failure]) -> Tensor:
    """logit of each probability, float64 [n]: the margin by which the first wins; NaN for a failure."""
    chances = torch.tensor([float("nan") if isinstance(p, Failure) else p for p in outcomes], dtype=torch.float64)
    return torch.logit(chances, eps=SURE)


def matches(samples: list[Sample], opponents: int) -> list[tuple[int, int]]:
    """Which samples meet: those of one prompt, each about `opponents` others of it."""
    groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(sample.source_prompt, []).append(i)
    return [(rows[a], rows[b]) for rows in groups.values() for a, b in ring(len(rows), opponents)]


def ring(count: int, opponents: int) -> list[tuple[int, int]]:
    """Pairs of `count` players in a ring: each meets its nearest followers, at most about `opponents` others."""
    reach = min(count // 2, max(1, -(-opponents // 2)))
    found = {tuple(sorted((i, (i + step) % count))) for step in range(1, reach + 1) for i in range(count)}
    return sorted(pair for pair in found if pair[0] != pair[1])


def win_rates(count: int, met: list[tuple[int, int]], outcomes: list[float | Failure],
              notes: list[str | None] | None = None) -> Scores:
    """Each of `count` samples' mean probability of winning against those that it met, [count, 1].

    outcomes: of every match in `met`. notes: what a person should know of a match, kept as a remark of both samples. A
    sample without a single outcome is NaN, with the reason.
    """
    total, played = torch.zeros(count), torch.zeros(count)
    remarks = {i: "the only sample of its prompt, so there is nothing to compare it with"
               for i in set(range(count)) - {i for match in met for i in match}}
    for (i, j), outcome, note in zip(met, outcomes, notes or [None] * len(met), strict=True):
        if said := outcome.reason if isinstance(outcome, Failure) else note:
            remarks |= {i: said, j: said}
        if isinstance(outcome, Failure):
            continue
        total[i] += outcome
        total[j] += 1 - outcome
        played[i] += 1
        played[j] += 1
    values: Tensor = total / played  # 0 / 0 is NaN: never compared
    return Scores(values[:, None], remarks)
