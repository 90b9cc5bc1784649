"""Which of several models is better: win rates for two, a Bradley-Terry ranking for many."""

from collections.abc import Iterable
from dataclasses import dataclass

import choix
import numpy as np
import scipy
from scipy.sparse.csgraph import connected_components

from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import LEVEL, Estimate, sign_test

ELO = 400 / np.log(10)
MEAN_ELO = 1000.0


class NoRanking(ValueError):
    """No chain of wins and losses joins all models; the message names the groups."""


@dataclass(frozen=True)
class WinRate:
    """How often the first of two won; pairs: how many were compared. p_value: of the sign test over prompts.
    at_equal_length: of texts, how often it would win were its answers as long as the other's."""

    share: Estimate
    p_value: float
    pairs: int
    at_equal_length: Estimate | None = None


def win_rate(first: np.ndarray, second: np.ndarray) -> WinRate | None:
    """Of rewards [P, K] on the same prompts and seeds, ties 1/2, interval over prompts; None when nothing is known."""
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return None
    won = (first > second) + 0.5 * (first == second)
    prompts = np.broadcast_to(np.arange(len(first))[:, None], first.shape)
    per_prompt = [won[p][known[p]].mean() - 0.5 for p in range(len(first)) if known[p].any()]
    return WinRate(clustered_mean(won[known], prompts[known]), sign_test(per_prompt), int(known.sum()))


def wins_of(scores: list[np.ndarray]) -> np.ndarray:
    """Wins of model i over j by prompt, ties 1/2, float64 [P, n, n], from each model's scores [P, K]."""
    count, n = len(scores[0]), len(scores)
    wins = np.zeros((count, n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                known = np.isfinite(scores[i]) & np.isfinite(scores[j])
                wins[:, i, j] = ((scores[i] > scores[j]) * known + 0.5 * (scores[i] == scores[j]) * known).sum(1)
    return wins


def elo(wins: np.ndarray, names: list[str], seed: int = 0, resamples: int = 1000) -> dict[str, Estimate]:
    """Bradley-Terry strengths of wins [P, n, n] by maximum likelihood, on the Elo scale with mean 1000.

    Intervals are bootstraps over prompts. Raises NoRanking naming the groups when no chain of wins and losses joins
    all models, since their strengths then have no finite ratio.
    """
    rng = np.random.default_rng(seed)
    return _ladder(wins.sum(0), names, (wins[rng.integers(0, len(wins), len(wins))].sum(0)
                                        for _ in range(resamples if len(wins) > 1 else 0)))


def elo_of_votes(sides: np.ndarray, won: np.ndarray, prompts: np.ndarray, voters: np.ndarray, names: list[str],
                 seed: int = 0, resamples: int = 1000) -> dict[str, Estimate]:
    """The same of V votes between two places in `names` each, ints [V, 2]; won: by the first, ties 1/2, [V]. prompts,
    voters: numbers from 0, [V].

    Intervals are bootstraps of prompts and of voters at once: a vote counts as often as its prompt was drawn, times as
    often as its voter was (the pigeonhole bootstrap of Owen 2007, which errs to the safe side), between quantiles that
    lie as far out as Student's t of few prompts or voters (`expanded`). One voter's votes are resampled by prompt
    alone, and hold for that voter. Votes on one prompt have no interval.
    """
    n, rng = len(names), np.random.default_rng(seed)
    many, people = int(prompts.max()) + 1, int(voters.max()) + 1

    def total(weight: np.ndarray) -> np.ndarray:
        ahead, behind = (np.bincount(sides @ place, weight * share, n * n).reshape(n, n)
                         for place, share in (((n, 1), won), ((1, n), 1 - won)))
        return ahead + behind

    def drawn(count: int) -> np.ndarray:
        """How often each of so many was drawn; a single one stays."""
        return np.bincount(rng.integers(0, count, count), minlength=count)

    return _ladder(total(np.ones(len(won))), names, (total(drawn(many)[prompts] * drawn(people)[voters])
                                                     for _ in range(resamples if many > 1 else 0)),
                   expanded(min(many, people) if people > 1 else many))


def expanded(count: int) -> float:
    """The level at which a percentile bootstrap of so many reaches as far as Student's t with the unbiased variance:
    2 Phi(sqrt(n / (n - 1)) t) - 1 (Hesterberg 2015). 1 of a single one, which says nothing."""
    if count < 2:
        return 1.0
    reach = scipy.stats.t.ppf((1 + LEVEL) / 2, count - 1) * (count / (count - 1)) ** 0.5
    return float(1 - 2 * scipy.stats.norm.sf(reach))


def _ladder(total: np.ndarray, names: list[str], resampled: Iterable[np.ndarray],
            level: float = LEVEL) -> dict[str, Estimate]:
    """Strengths of the wins [n, n], within those of the resampled ones; intervals are infinite where there are none."""
    check_joined(total, names)
    drawn, known = [], {}
    for wins in resampled:
        same = wins.tobytes()  # few prompts have few resamples
        if same not in known:
            # a resample may fall apart; a trace of a prior keeps its strengths finite, and far out
            known[same] = _strengths(wins, 0.0 if _joined(wins) else 1e-3)
        drawn.append(known[same])
    middle = _strengths(total, 0.0)
    if not drawn:
        return {name: Estimate(float(middle[i]), float("-inf"), float("inf")) for i, name in enumerate(names)}
    low, high = np.quantile(np.array(drawn), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {name: Estimate(float(middle[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)}


def check_joined(wins: np.ndarray, names: list[str]) -> None:
    """Raise NoRanking naming the groups when no chain of wins [n, n] leads from every model to every other."""
    groups = _components(wins)
    if len(groups) > 1:
        listed = "; ".join(", ".join(names[i] for i in group) for group in groups)
        raise NoRanking("no ranking: between these groups one side won every comparison, or there was none: "
                         f"{listed}")


def _strengths(wins: np.ndarray, prior: float) -> np.ndarray:
    found = choix.ilsr_pairwise_dense(wins, alpha=prior, max_iter=1000)
    return (found - found.mean()) * ELO + MEAN_ELO


def _joined(wins: np.ndarray) -> bool:
    """Whether a chain of wins leads from every model to every other: one group, found without naming it."""
    reached = (wins > 0) | np.eye(len(wins), dtype=bool)
    for _ in range(len(wins).bit_length()):
        reached = reached @ reached
    return bool(reached.all())


def _components(wins: np.ndarray) -> list[list[int]]:
    count, label = connected_components(wins > 0, directed=True, connection="strong")
    return [np.flatnonzero(label == k).tolist() for k in range(count)]
