"""Which matchup a voter sees next: an anchor where one is due, else of the two models from whose meeting most is learnt
(evaluators/next_pair.py), and of theirs one with the fewest votes."""

from collections.abc import Iterable

import numpy as np

from visalign.evaluators.next_pair import next_pairs
from visalign.votes.anchors import next_anchor
from visalign.votes.book import ANCHOR, Matchup, VoteDatabase


def next_matchup(book: VoteDatabase, voter: str, held: Iterable[str] = (), between: frozenset[str] | None = None,
                 anchors: float = 0.0) -> Matchup | None:
    """One for this voter; None where all are voted on. held: ids that their page has already, whose votes are awaited.
    between: only matchups of these models. anchors: share of ballots that are anchors."""
    held = tuple(held)
    if (anchor := next_anchor(book, voter, anchors, held)) is not None:
        return anchor
    for models in models_by_information(book, voter, held, between):
        if found := book.open_for(voter, 1, held, models):
            return found[0]
    return next(iter(book.open_for(voter, 1, held, between)), None)


def models_by_information(book: VoteDatabase, voter: str, held: Iterable[str],
                          between: frozenset[str] | None) -> list[frozenset[str]]:
    """Two models each, of those whose matchups are open for a voter, the most informative first; [] where no more than
    two models may meet, since there is nothing to choose."""
    open_ = {models for models in book.may_meet(voter) if len(models) == 2 and (between is None or models <= between)}
    if len(open_) < 2:
        return []
    names = sorted(set.union(*map(set, open_)) | {name for a, b, _, _ in book.met() for name in (a, b)})
    place = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    awaited = [book.matchup(number) for number in held if not number.startswith(ANCHOR)]
    said = [*book.met(), *((matchup.a.model, matchup.b.model, "tie", 1) for matchup in awaited)]
    for a, b, choice, count in said:
        if choice != "skip" and a != b and a in place and b in place:
            wins[place[a], place[b]] += count * {"a": 1.0, "tie": 0.5}.get(choice, 0.0)
            wins[place[b], place[a]] += count * {"b": 1.0, "tie": 0.5}.get(choice, 0.0)
    allowed = np.zeros(wins.shape, bool)
    for models in open_:
        i, j = (place[name] for name in models)
        allowed[i, j] = allowed[j, i] = True
    return [frozenset((names[i], names[j])) for i, j in next_pairs(wins, allowed)]
