"""Which of a prompt's generations make a preference pair, given a reward's score of each."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist


@dataclass(frozen=True)
class Candidate:
    """One generation: its index, score (larger is better) and the reward's own standard deviation, 0 if unknown."""

    number: int
    score: float
    spread: float = 0.0


@dataclass
class PairCounts:
    """Outcomes of the candidates' pairs. Every pair that a strategy proposed is in exactly one of them."""

    kept: int = 0
    ties: int = 0
    uncertain: int = 0
    disagreements: int = 0
    unranked: int = 0
    prompts_without: int = 0

    def text(self) -> str:
        return (f"{self.kept} pairs; left out: {self.ties} ties, {self.uncertain} of low confidence, "
                f"{self.disagreements} where ranking and scores disagree, {self.unranked} that "
                f"the ranker could not compare; {self.prompts_without} prompts gave none")


Chosen = tuple[Candidate, Candidate]


def best_worst(candidates: list[Candidate], top: int = 1) -> list[Chosen]:
    """The best against the worst, then the second best against the second worst, up to `top` pairs."""
    ranked = sorted(candidates, key=lambda c: (-c.score, c.number))
    return list(zip(ranked, reversed(ranked), strict=True))[:min(top, len(ranked) // 2)]


def all_pairs(candidates: list[Candidate], top: int = 1) -> list[Chosen]:
    """Every pair, the better one first; a minimum gap then decides which are kept. `top` is not used."""
    ranked = sorted(candidates, key=lambda c: (-c.score, c.number))
    return [(a, b) for i, a in enumerate(ranked) for b in ranked[i + 1:]]


def rejection_sampled(candidates: list[Candidate], beta: float, top: int = 1, seed: int = 0) -> list[Chosen]:
    """Statistical rejection sampling (RSO, Liu et al. 2023, arXiv 2309.06657): `top` pairs of two candidates each that
    are kept with probability exp((score - best score left) / beta), in passes, until there are enough.

    A large beta keeps any of them, beta towards 0 the best; what is kept looks like samples of the policy that DPO with
    that beta would end in. Pairs are drawn among them at random, the better one first.
    """
    rng, left, kept = random.Random(seed), sorted(candidates, key=lambda c: c.number), []
    wanted = 2 * min(top, len(left) // 2)
    rng.shuffle(left)
    while len(kept) < wanted:
        best = max(c.score for c in left)
        taken = [c for c in left if rng.random() < math.exp((c.score - best) / beta)][:wanted - len(kept)]
        kept += taken
        left = [c for c in left if c not in taken]
    rng.shuffle(kept)
    pairs = zip(kept[::2], kept[1::2], strict=True)
    return [tuple(sorted(pair, key=lambda c: (-c.score, c.number))) for pair in pairs]


def sifted(candidates: list[Candidate], first_wins: Callable[[list[Chosen]], list[bool | None]],
           seed: int = 0) -> list[Chosen]:
    """Pair ranking, then point sifting (UnifiedReward): best of the winners, worst of the losers.

    first_wins: for each pair whether its first is better, None for a tie; ties are ignored.
    """
    mixed = sorted(candidates, key=lambda c: c.number)
    random.Random(seed).shuffle(mixed)
    pairs = list(zip(mixed[::2], mixed[1::2], strict=False))
    winners, losers = [], []
    for (a, b), first in zip(pairs, first_wins(pairs), strict=True):
        if first is not None:
            winners.append(a if first else b)
            losers.append(b if first else a)
    if not winners:
        return []
    return [(max(winners, key=lambda c: c.score), min(losers, key=lambda c: c.score))]


def confidence(better: Candidate, worse: Candidate) -> float:
    """Probability that the first is truly better, assuming normal scores with their spreads; 1 without spreads."""
    spread = math.hypot(better.spread, worse.spread)
    gap = better.score - worse.score
    return NormalDist().cdf(gap / spread) if spread > 0 else float(gap > 0)


def rank_consistency(first: Sequence[float], second: Sequence[float]) -> float:
    """(Kendall's tau + 1) / 2 of two rankings of the same candidates: 1 where they agree on every pair, 0 on none; a
    tie in either counts a half. NaN for fewer than two. A label's chance in CREAM (Wang et al. 2024, arXiv 2410.12735).
    """
    pairs = list(combinations(zip(first, second, strict=True), 2))
    if not pairs:
        return math.nan
    agreed = [(a - b) * (c - d) for (a, c), (b, d) in pairs]
    return sum(0.5 if each == 0 else float(each > 0) for each in agreed) / len(pairs)


def keep(pairs: list[Chosen], counts: PairCounts, min_gap: float = 0.0, min_confidence: float = 0.0) -> list[Chosen]:
    """The pairs whose gap exceeds `min_gap` and whose confidence reaches `min_confidence`; the rest is counted."""
    kept = []
    for better, worse in pairs:
        gap = better.score - worse.score
        if gap < 0:
            counts.disagreements += 1
        elif gap <= min_gap:
            counts.ties += 1
        elif confidence(better, worse) < min_confidence:
            counts.uncertain += 1
        else:
            kept.append((better, worse))
    counts.kept += len(kept)
    counts.prompts_without += not kept
    return kept
