"""The fair ranking: strengths of models with the side and the style of their media taken out of the votes, ties as
ties, intervals by voter and prompt (evaluators/vote_strengths.py), and how far rewards agree with people beside style.

Covariates are differences of the two sides: +1 where side a was on the left and -1 where b was; and of each style
statistic (style.py) in standard deviations over the media that were voted on. """

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from visalign.evaluators.ranking import NoRanking
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.vote_strengths import VoteTable, chance_of, fit_design, fit_votes
from visalign.votes.board import OVERALL, votes_in
from visalign.votes.book import Matchup, Vote, VoteDatabase
from visalign.votes.style import CONTROLS, MOTION
from visalign.votes.voters import VoterRecord, voter_records

LEFT = "left side"
LEAST_REWARD = 20
"""Decided or tied votes on scored media, below which nothing is said of a reward."""
_OUTCOMES = {"a": 1.0, "tie": 0.0, "b": -1.0}


@dataclass(frozen=True)
class RewardAgreement:
    """Odds that people prefer the side that a reward scores one standard deviation higher: with the side alone taken
    out, and with style, too (None where no style is known)."""

    reward: str
    alone: Estimate
    beside: Estimate | None
    votes: int


@dataclass(frozen=True)
class FairBoard:
    """models: the best first. fair: Elo with covariates, intervals by voter and prompt; as_independent: as if all votes
    were different people's on different prompts; plain: without covariates, by voter and prompt. effects: odds among
    equals for the side that is on the left, or one standard deviation higher in a statistic. tie: Davidson's nu. notes:
    what could not be said, a sentence each. voters: how many voted between models. Without a ranking, models and all
    numbers are empty."""

    dimension: str
    models: list[str]
    fair: dict[str, Estimate]
    as_independent: dict[str, Estimate]
    plain: dict[str, Estimate]
    effects: dict[str, Estimate]
    tie: Estimate | None
    notes: tuple[str, ...]
    voters: int
    records: list[VoterRecord]
    rewards: list[RewardAgreement]


def fair_board(book: VoteDatabase, dimension: str = OVERALL, style: bool = True) -> FairBoard:
    """Of a book's votes, skipped ones left out. style: with the style of the media as far as it was measured."""
    matchups = {matchup.id: matchup for matchup in book.matchups() if not matchup.is_anchor}
    votes = votes_in(book, matchups, dimension)
    between = [(vote, choice) for vote, choice in votes if matchups[vote.matchup].between_models]
    notes: list[str] = []
    x, names = covariates(between, matchups, book.looks() if style else None, notes)
    table = table_of(between, matchups, x, names)
    agreed: dict[str, list[float]] = defaultdict(list)
    numbers: dict = {"models": [], "fair": {}, "as_independent": {}, "plain": {}, "effects": {}, "tie": None}
    if len(table.models) < 2:
        notes.append("there is no vote between two models yet, so there is no ranking")
    else:
        try:
            numbers, chances = _ranked(table, notes)
            for voter, chance in zip(table.voters, chance_of(chances, table.outcome).tolist(), strict=True):
                agreed[str(voter)].append(chance)
        except NoRanking as error:
            notes.append(str(error))
    rewards = rewards_beside_style(book, votes, matchups, style, notes)
    return FairBoard(dimension, **numbers, notes=tuple(notes), voters=len(set(table.voters.tolist())),
                     records=voter_records(book.votes(), agreed), rewards=rewards)


def _ranked(table: VoteTable, notes: list[str]) -> tuple[dict, np.ndarray]:
    """FairBoard's numbers, and the chances of every vote. Raises NoRanking as `fit_votes` does."""
    plain, fit = fit_votes(table.plain()), fit_votes(table)
    if fit.fit.clustered is None:
        notes.append("all votes are one voter's, so there is no interval that would hold for other people")
    if fit.fit.prompts == 1:
        notes.append("all votes are on one prompt, so there is no interval that would hold for other prompts")
    if not fit.fit.ties:
        notes.append("nobody voted a tie, so there is no parameter of ties")
    order = sorted(range(len(table.models)), key=lambda i: (-fit.strengths[i], i))
    elo = {"fair": fit.elo, "plain": plain.elo, "as_independent": lambda i: fit.elo(i, clustered=False)}
    return {"models": [table.models[i] for i in order], "tie": fit.tie(),
            "effects": {name: odds(fit.effect(c)) for c, name in enumerate(table.names)},
            **{key: {table.models[i]: of(i) for i in order} for key, of in elo.items()}}, fit.fit.chances


def odds(log_odds: Estimate) -> Estimate:
    with np.errstate(over="ignore"):  # a bound beyond all numbers is infinite
        return Estimate(*np.exp(log_odds).tolist())


def table_of(votes: list[tuple[Vote, str]], matchups: dict[str, Matchup], x: np.ndarray,
             names: tuple[str, ...]) -> VoteTable:
    """Side a of each matchup is the first."""
    sides = [(matchups[vote.matchup].a.model, matchups[vote.matchup].b.model) for vote, _ in votes]
    models = sorted({model for pair in sides for model in pair})
    place = {model: i for i, model in enumerate(models)}
    first, second = np.array([[place[a], place[b]] for a, b in sides], int).reshape(-1, 2).T
    return VoteTable(models, first, second, outcomes(votes), voters_of(votes), x, names, vote_prompts(votes, matchups))


def outcomes(votes: list[tuple[Vote, str]]) -> np.ndarray:
    return np.array([_OUTCOMES[choice] for _, choice in votes])


def voters_of(votes: list[tuple[Vote, str]]) -> np.ndarray:
    return np.array([vote.voter for vote, _ in votes], object)


def vote_prompts(votes: list[tuple[Vote, str]], matchups: dict[str, Matchup]) -> np.ndarray:
    return np.array([matchups[vote.matchup].asked for vote, _ in votes], object)


def covariates(votes: list[tuple[Vote, str]], matchups: dict[str, Matchup], looks: dict[str, dict[str, float]] | None,
               notes: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Differences of the sides of every vote [V, C], and what they are. looks: style of every file; None: not asked
    for. Sentences about what had to be left out go to `notes`."""
    columns = {LEFT: np.array([1.0 if vote.on_left == "a" else -1.0 for vote, _ in votes])}
    files = [[matchups[vote.matchup].a.file, matchups[vote.matchup].b.file] for vote, _ in votes]
    media = list(dict.fromkeys(file for pair in files for file in pair))
    if looks is not None and media:
        if missing := sum(file not in looks for file in media):
            notes.append(f"the style of {missing} of {len(media)} media is not measured yet, so style is not taken out")
        else:
            columns |= _style_columns(files, media, looks, notes)
    return np.stack(list(columns.values()), axis=1), tuple(columns)


def _style_columns(files: list[list[str]], media: list[str], looks: dict[str, dict[str, float]],
                   notes: list[str]) -> dict[str, np.ndarray]:
    shared = set.intersection(*(set(looks[file]) for file in media))
    columns = {}
    for name in dict.fromkeys((*CONTROLS["image"], MOTION, *CONTROLS["text"])):
        if name not in shared:
            continue
        spread = float(np.std([looks[file][name] for file in media]))
        if spread == 0:
            notes.append(f"{name} is the same in all media, so it is not taken out")
        else:
            columns[name] = np.array([looks[a][name] - looks[b][name] for a, b in files]) / spread
    return columns


def rewards_beside_style(book: VoteDatabase, votes: list[tuple[Vote, str]], matchups: dict[str, Matchup],
                         style: bool, notes: list[str]) -> list[RewardAgreement]:
    """Of every reward that has scored the media of at least LEAST_REWARD votes. One without a finite fit is told in
    `notes`."""
    looks, found = book.looks() if style else None, []
    for reward in book.rewards():
        scores = {file: score for file, score in book.scores(reward).items() if score is not None}
        scored = [(vote, choice) for vote, choice in votes if matchups[vote.matchup].a.file in scores
                  and matchups[vote.matchup].b.file in scores]
        sides = np.array([[scores[side.file] for side in (matchups[vote.matchup].a, matchups[vote.matchup].b)]
                          for vote, _ in scored]).reshape(-1, 2)
        if len(scored) < LEAST_REWARD or sides.std() == 0:
            continue
        margin = (sides[:, 0] - sides[:, 1])[:, None] / sides.std()
        x, names = covariates(scored, matchups, looks, [])
        try:
            alone, *beside = [odds(fit_design(np.hstack([margin, x[:, :count]]), outcomes(scored), voters_of(scored),
                                              (reward, *names[:count]), f"{len(scored)} votes",
                                              vote_prompts(scored, matchups)).between(0))
                              for count in sorted({1, len(names)})]
            found.append(RewardAgreement(reward, alone, beside[0] if beside else None, len(scored)))
        except NoRanking as error:
            notes.append(str(error).replace("no ranking", f"nothing can be said of {reward}", 1))
    return found
