"""HERON: rewards in the order of their importance, each of which decides what those before it leave open.

Bukharin et al. 2023 (arXiv 2309.02632). With f_1, f_2, ... the rewards and d_l = margin * std(f_l) over all samples,

    a is preferred to b at the first level l with f_l(a) - f_l(b) > d_l, b at the first with f_l(b) - f_l(a) > d_l

Nothing is weighed: labels are as they were under any other unit of a reward. Pairs that no level decides are left out.
Differs from the release in: the first level has a margin as well.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import pstdev

from visalign.data.pair_selection import Candidate, Chosen
from visalign.data.pareto import Rewarded
from visalign.errors import UserError

MARGIN = 0.5
"""In standard deviations of a reward."""


def margins_of(groups: Rewarded, names: Sequence[str], margin: float = MARGIN) -> tuple[float, ...]:
    """d of each reward. Raises UserError for one that scores all generations alike, which decides nothing."""
    columns = list(zip(*(values for each in groups.values() for values in each.values()), strict=True))
    spreads = [pstdev(column) for column in columns]
    for name, spread in zip(names, spreads, strict=False):
        if not spread:
            raise UserError(f"pairs: {name} scores all generations alike, so it decides nothing; leave that reward out")
    return tuple(margin * spread for spread in spreads)


def deciding_level(a: Sequence[float], b: Sequence[float], margins: Sequence[float]) -> int | None:
    """The first level, counted from 0, at which two generations differ by more than its margin."""
    return next((level for level, (x, y, d) in enumerate(zip(a, b, margins, strict=True)) if abs(x - y) > d), None)


def decided_pairs(points: Mapping[int, tuple[float, ...]], margins: Sequence[float], top: int = 1, seed: int = 0,
               decided: Counter | None = None) -> list[Chosen]:
    """At most `top` of a prompt's decided pairs, drawn at random; the scores are of the deciding reward, from 0 for the
    worse one and in units of its standard deviation where margins are. decided: counts them by level."""
    found = []
    for a, b in combinations(sorted(points), 2):
        level = deciding_level(points[a], points[b], margins)
        if level is not None:
            gap = points[a][level] - points[b][level]
            pair = (a, b) if gap > 0 else (b, a)
            found.append((level, (Candidate(pair[0], abs(gap)), Candidate(pair[1], 0.0))))
    random.Random(seed).shuffle(found)
    if decided is not None:
        decided.update(level for level, _ in found[:top])
    return [pair for _, pair in found[:top]]


def levels_note(decided: Counter, names: Sequence[str]) -> str:
    """Which reward decided how many pairs."""
    total = sum(decided.values())
    return f"of {total} pairs " + ", ".join(f"{name} decided {decided[level]}" for level, name in enumerate(names))
