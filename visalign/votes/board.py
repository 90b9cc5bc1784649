"""Who wins, by people's votes: a ranking with intervals, the win matrix, and how far voters and rewards agree."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from visalign.evaluators.betting import running_mean
from visalign.evaluators.ranking import NoRanking, elo_of_votes
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import LEVEL, Estimate
from visalign.votes.book import Matchup, Vote, VoteDatabase

OVERALL = "overall"
LEAST_SHARED = 5
"""Their agreement is reported for two voters who both voted on at least so many matchups."""
_PLACES = {"a": 0, "tie": 1, "b": 2}
_WON = {"a": 1.0, "tie": 0.5, "b": 0.0}


@dataclass(frozen=True)
class Kappa:
    """Cohen's kappa of two, or of a voter and a reward (then on decided matchups), with a bootstrap over matchups."""

    first: str
    second: str
    kappa: Estimate
    agree: float
    matchups: int


@dataclass(frozen=True)
class Duel:
    """How often the first model won over the second, ties half, by the first vote on each matchup, with an interval
    that holds however often it is looked at while votes arrive (evaluators/betting.py)."""

    first: str
    second: str
    share: Estimate
    matchups: int

    @property
    def decided(self) -> bool:
        return not self.share.low <= 0.5 <= self.share.high

    def in_words(self) -> str:
        share = "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * bound for bound in self.share))
        what = "wins" if self.share.low > 0.5 else "loses" if self.share.high < 0.5 else "is not clearly ahead"
        return f"{self.first} {what} against {self.second}: {share} of {self.matchups} pairs"


@dataclass(frozen=True)
class Leaderboard:
    """dimension: of the votes. models: the best first. wins[i, j]: votes for i over j, ties half to each; ties[i, j].

    duels: of every two models that met, the better ranked one first.
    elo is None, and no_ranking says why, where the votes do not join all models. left: share of decided votes that went
    to the left side, which is 1/2 where the side does not matter.
    """

    dimension: str
    models: list[str]
    wins: np.ndarray
    ties: np.ndarray
    elo: dict[str, Estimate] | None
    no_ranking: str
    voters: dict[str, int]
    left: Estimate | None
    between_voters: list[Kappa]
    with_rewards: list[Kappa]
    duels: list[Duel] = field(default_factory=list)

    @property
    def votes(self) -> int:
        return sum(self.voters.values())


def leaderboard(book: VoteDatabase, dimension: str = OVERALL) -> Leaderboard:
    """Count a book's votes, skipped ones and anchors left out. Matchups of a model with itself count for agreement
    alone."""
    matchups = {matchup.id: matchup for matchup in book.matchups() if not matchup.is_anchor}
    votes = votes_in(book, matchups, dimension)
    given = [(vote, matchups[vote.matchup], choice) for vote, choice in votes
             if matchups[vote.matchup].between_models]
    between = [(matchup, choice) for _, matchup, choice in given]
    models = sorted({side.model for matchup, _ in between for side in (matchup.a, matchup.b)})
    total, ties = tally(between, models)
    ranking, why = None, "there is no vote between two models yet"
    if len(models) > 1:
        try:
            ranking, why = ladder(between, [vote.voter for vote, _, _ in given], models), ""
        except NoRanking as error:
            why = str(error)
    order = sorted(range(len(models)), key=lambda i: (-(ranking[models[i]].value if ranking else vote_share(total, i)),
                                                      i))
    voters: dict[str, int] = defaultdict(int)
    for vote, _ in votes:
        voters[vote.voter] += 1
    answers = {voter: {vote.matchup: choice for vote, choice in votes if vote.voter == voter} for voter in voters}
    return Leaderboard(dimension, [models[i] for i in order], total[np.ix_(order, order)], ties[np.ix_(order, order)],
                       ranking, why, dict(voters), left_share(votes), among(answers),
                       against_rewards(book, matchups, answers), duels_of(between, [models[i] for i in order]))


def votes_in(book: VoteDatabase, matchups: dict[str, Matchup], dimension: str) -> list[tuple[Vote, str]]:
    """(vote, choice) of those on `matchups` that say something in a dimension, oldest first."""
    return [(vote, choice) for vote in book.votes() if vote.matchup in matchups
            and (choice := choice_in(vote, dimension)) in _PLACES]


def choice_in(vote: Vote, dimension: str) -> str | None:
    """What a vote says in a dimension; None where it says nothing."""
    return vote.choice if dimension == OVERALL else vote.dimensions.get(dimension)


def dimensions_of(votes: Iterable[Vote]) -> list[str]:
    """Dimensions that somebody voted in, after `overall`."""
    return [OVERALL, *sorted({name for vote in votes for name in vote.dimensions})]


def tally(between: list[tuple[Matchup, str]], models: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Wins, ties half to each side, and ties, [n, n] each."""
    place = {model: i for i, model in enumerate(models)}
    wins, ties = np.zeros((len(models), len(models))), np.zeros((len(models), len(models)))
    for matchup, choice in between:
        a, b = place[matchup.a.model], place[matchup.b.model]
        wins[a, b] += _WON[choice]
        wins[b, a] += 1 - _WON[choice]
        ties[a, b] += choice == "tie"
        ties[b, a] += choice == "tie"
    return wins, ties


def ladder(between: list[tuple[Matchup, str]], voters: list[str], models: list[str]) -> dict[str, Estimate]:
    """Strengths, with intervals over prompts and voters. Raises NoRanking."""
    place = {model: i for i, model in enumerate(models)}
    sides = np.array([[place[matchup.a.model], place[matchup.b.model]] for matchup, _ in between])
    prompts, people = (np.unique(np.array(each, object), return_inverse=True)[1]
                       for each in ([matchup.asked for matchup, _ in between], voters))
    return elo_of_votes(sides, np.array([_WON[choice] for _, choice in between]), prompts, people, models)


def duels_of(between: list[tuple[Matchup, str]], models: list[str]) -> list[Duel]:
    """Of every two models that met. Later votes on a matchup are left out: they look at the same two samples, so that
    they would count one piece of evidence twice."""
    first: dict[str, tuple[Matchup, str]] = {}
    for matchup, choice in between:
        first.setdefault(matchup.id, (matchup, choice))
    found = []
    for i, one in enumerate(models):
        for other in models[i + 1:]:
            won = [_WON[choice] if matchup.a.model == one else 1 - _WON[choice] for matchup, choice in first.values()
                   if {matchup.a.model, matchup.b.model} == {one, other}]
            if won:
                found.append(Duel(one, other, running_mean(won), len(won)))
    return found


def vote_share(wins: np.ndarray, i: int) -> float:
    """Of a model's comparisons, those it won."""
    return wins[i].sum() / max(1.0, wins[i].sum() + wins[:, i].sum())


def left_share(votes: list[tuple[Vote, str]]) -> Estimate | None:
    decided = [(vote.matchup, float(choice == vote.on_left)) for vote, choice in votes if choice in ("a", "b")]
    if not decided:
        return None
    groups, values = zip(*decided, strict=True)
    return clustered_mean(np.array(values), np.unique(groups, return_inverse=True)[1])


def among(answers: dict[str, dict[str, str]]) -> list[Kappa]:
    """Of every two voters that share enough matchups."""
    voters, found = sorted(answers), []
    for i, first in enumerate(voters):
        for second in voters[i + 1:]:
            shared = sorted(answers[first].keys() & answers[second].keys())
            if len(shared) >= LEAST_SHARED:
                found.append(kappa_of(first, second, [answers[first][c] for c in shared],
                                      [answers[second][c] for c in shared]))
    return found


def against_rewards(book: VoteDatabase, matchups: dict[str, Matchup],
                    answers: dict[str, dict[str, str]]) -> list[Kappa]:
    """Of every voter with every reward that has scored the media; rewards have no ties, so only decided votes count."""
    found = []
    for reward in book.rewards():
        scores = book.scores(reward)
        for voter, given in sorted(answers.items()):
            theirs, preferred = [], []
            for matchup, choice in given.items():
                a, b = (scores.get(side.file) for side in (matchups[matchup].a, matchups[matchup].b))
                if choice != "tie" and a is not None and b is not None and a != b:
                    theirs.append(choice)
                    preferred.append("a" if a > b else "b")
            if len(theirs) >= LEAST_SHARED:
                found.append(kappa_of(voter, reward, theirs, preferred))
    return found


def kappa_of(first: str, second: str, theirs: list[str], others: list[str], resamples: int = 1000) -> Kappa:
    """Agreement of two lists of choices on the same matchups."""
    cells = np.array([_PLACES[x] * 3 + _PLACES[y] for x, y in zip(theirs, others, strict=True)])
    drawn = np.random.default_rng(0).integers(0, len(cells), (resamples, len(cells)))
    tables = np.stack([np.bincount(row, minlength=9) for row in cells[np.vstack([np.arange(len(cells)), drawn])]])
    values, agree = cohen_kappa(tables.reshape(-1, 3, 3))
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if np.isfinite(values[1:]).any() else (
        float("nan"), float("nan"))
    return Kappa(first, second, Estimate(float(values[0]), float(low), float(high)), float(agree[0]), len(cells))


def cohen_kappa(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(kappa, share of agreement) of contingency tables [n, k, k] (Cohen 1960).

    kappa is NaN where both always say the same one thing, since nothing is left to agree on by chance or otherwise.
    """
    shares = tables / tables.sum((1, 2), keepdims=True)
    agree = np.trace(shares, axis1=1, axis2=2)
    chance = (shares.sum(1) * shares.sum(2)).sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (agree - chance) / (1 - chance), np.nan), agree
