"""How reliable each voter is: what they say of anchors, which side they favour, and whether they change as they go on.

Names are hashed. A voter drifts where the chance that the fitted ranking gives to what they said rises or falls with
the order of their votes: Kendall's tau and its p-value, times the number of voters tested (Bonferroni). """

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import scipy

from visalign.data.rows import hashed_user
from visalign.evaluators.statistics import LEVEL, Estimate
from visalign.votes.anchors import OBVIOUS, REPEAT
from visalign.votes.book import ANCHOR, Vote

LEAST_DRIFT = 10
"""Votes of a voter, below which nothing is said of drift."""


@dataclass(frozen=True)
class VoterRecord:
    """name: hashed. votes: without anchors and skipped ones. obvious, repeats: (how many were as a reliable voter would
    vote, of how many). left: share of decided votes for the left side; None without one. tau, p: of drift; None where
    there are too few votes or no ranking."""

    name: str
    votes: int
    obvious: tuple[int, int]
    repeats: tuple[int, int]
    left: float | None
    tau: float | None = None
    p: float | None = None

    @property
    def reliable(self) -> Estimate | None:
        """Share of anchors of both kinds, with the exact interval of Clopper and Pearson; None without an anchor."""
        right, seen = self.obvious[0] + self.repeats[0], self.obvious[1] + self.repeats[1]
        if not seen:
            return None
        return Estimate(right / seen, *map(float, scipy.stats.binomtest(right, seen).proportion_ci(LEVEL)))

    @property
    def drifts(self) -> bool:
        return self.p is not None and self.p < 1 - LEVEL

    def in_words(self) -> str:
        said = [f"{self.name}: {self.votes} votes"]
        if (share := self.reliable) is not None:
            said.append("anchors {} of {}, {:.0f} % [{:.0f}, {:.0f}]".format(
                self.obvious[0] + self.repeats[0], self.obvious[1] + self.repeats[1], *(100 * each for each in share)))
            said.append(f"obvious {self.obvious[0]} of {self.obvious[1]}, repeats {self.repeats[0]} of "
                        f"{self.repeats[1]}")
        if self.left is not None:
            said.append(f"left side {100 * self.left:.0f} %")
        if self.drifts:
            said.append(f"changes over time: agrees {'more' if self.tau > 0 else 'less'} with the ranking as votes go "
                        f"on (tau {self.tau:+.2f}, p {self.p:.3g})")
        return ", ".join(said)


def voter_records(votes: list[Vote], agreed: dict[str, list[float]]) -> list[VoterRecord]:
    """Of every voter, most votes first. votes: all that count, anchors too, in order of time. agreed: of each voter the
    chances that the ranking gave to what they said, in order of time."""
    of: dict[str, list[Vote]] = defaultdict(list)
    for vote in votes:
        of[vote.voter].append(vote)
    tested = {voter: drift for voter in of if (drift := drift_of(agreed.get(voter, []))) is not None}
    records = []
    for voter, given in of.items():
        decided = [vote.choice == vote.on_left for vote in given if vote.choice in ("a", "b")]
        tau, p = tested.get(voter, (None, None))
        records.append(VoterRecord(
            hashed_user(voter), sum(not vote.matchup.startswith(ANCHOR) and vote.choice != "skip" for vote in given),
            obvious_record(given), repeat_record(given), float(np.mean(decided)) if decided else None, tau,
            None if p is None else min(1.0, p * len(tested))))
    return sorted(records, key=lambda record: (-record.votes, record.name))


def obvious_record(votes: list[Vote]) -> tuple[int, int]:
    """How many obvious anchors of one voter were told, of how many: side a is whole."""
    said = [vote.choice == "a" for vote in votes if vote.matchup.startswith(OBVIOUS) and vote.choice != "skip"]
    return sum(said), len(said)


def repeat_record(votes: list[Vote]) -> tuple[int, int]:
    """How many repeats of one voter were answered as before, of how many."""
    first = {vote.matchup: vote.choice for vote in votes}
    said = [vote.choice == first[vote.matchup.removeprefix(REPEAT)] for vote in votes
            if vote.matchup.startswith(REPEAT) and vote.choice != "skip"
            and first.get(vote.matchup.removeprefix(REPEAT), "skip") != "skip"]
    return sum(said), len(said)


def drift_of(agreed: list[float]) -> tuple[float, float] | None:
    """(tau, p) of chances in order of time; None of too few, or where all are equal."""
    if len(agreed) < LEAST_DRIFT or np.ptp(agreed) == 0:
        return None
    found = scipy.stats.kendalltau(range(len(agreed)), agreed)
    return float(found.statistic), float(found.pvalue)
