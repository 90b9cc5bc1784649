"""Which matchup a voter sees next: an anchor where one is due, else of the two models from whose meeting most is learnt
(evaluators/next_pair.py), and of theirs one with the fewest votes; where a reward knows users, on every other ballot
one that tells most of the voter instead (asking.py)."""

from collections.abc import Iterable

import numpy as np

from visalign.evaluators.next_pair import fallen_behind, next_pairs
from visalign.votes.anchors import next_anchor
from visalign.votes.asking import MOST_ASKED, Questioner
from visalign.votes.book import ANCHOR, Matchup, VoteDatabase


def next_matchup(book: VoteDatabase, voter: str, held: Iterable[str] = (), between: frozenset[str] | None = None,
                 anchors: float = 0.0, questioner: Questioner | None = None) -> Matchup | None:
    """One for this voter; None where all are voted on. held: ids that their page has already, whose votes are awaited.
    between: only matchups of these models. anchors: share of ballots that are anchors. questioner: who knows which
    matchup tells most of a voter."""
    held = tuple(held)
    if (anchor := next_anchor(book, voter, anchors, held)) is not None:
        return anchor
    if questioner is not None and questioner.has_turn(voter, held):
        among = keeping_up(book, book.open_for(voter, MOST_ASKED, held, between), held)
        if (found := questioner.best(voter, among)) is not None:
            return found
    for models in models_by_information(book, voter, held, between):
        if found := book.open_for(voter, 1, held, models):
            return found[0]
    return next(iter(book.open_for(voter, 1, held, between)), None)


def keeping_up(book: VoteDatabase, matchups: list[Matchup], held: tuple[str, ...]) -> list[Matchup]:
    """Those of matchups in which a model that fell behind meets another one; all where none did."""
    names, wins = standing(book, held, {frozenset((each.a.model, each.b.model)) for each in matchups
                                        if each.between_models})
    behind = {name for name, is_behind in zip(names, fallen_behind(wins), strict=True) if is_behind} if names else set()
    owed = [each for each in matchups if each.between_models and behind & {each.a.model, each.b.model}]
    return owed or matchups


def models_by_information(book: VoteDatabase, voter: str, held: Iterable[str],
                          between: frozenset[str] | None) -> list[frozenset[str]]:
    """Two models each, of those whose matchups are open for a voter, the most informative first; [] where no more than
    two models may meet, since there is nothing to choose."""
    open_ = {models for models in book.may_meet(voter) if len(models) == 2 and (between is None or models <= between)}
    if len(open_) < 2:
        return []
    names, wins = standing(book, held, open_)
    place = {name: i for i, name in enumerate(names)}
    allowed = np.zeros(wins.shape, bool)
    for models in open_:
        i, j = (place[name] for name in models)
        allowed[i, j] = allowed[j, i] = True
    return [frozenset((names[i], names[j])) for i, j in next_pairs(wins, allowed)]


def standing(book: VoteDatabase, held: Iterable[str], open_: set[frozenset[str]]) -> tuple[list[str], np.ndarray]:
    """Models that have met or may meet (open_), and how often each beat each, ties half to both; what a page holds
    counts as a tie."""
    names = sorted(set().union(*open_) | {name for a, b, _, _ in book.met() for name in (a, b)})
    place = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    awaited = [book.matchup(number) for number in held if not number.startswith(ANCHOR)]
    said = [*book.met(), *((matchup.a.model, matchup.b.model, "tie", 1) for matchup in awaited)]
    for a, b, choice, count in said:
        if choice != "skip" and a != b and a in place and b in place:
            wins[place[a], place[b]] += count * {"a": 1.0, "tie": 0.5}.get(choice, 0.0)
            wins[place[b], place[a]] += count * {"b": 1.0, "tie": 0.5}.get(choice, 0.0)
    return names, wins
