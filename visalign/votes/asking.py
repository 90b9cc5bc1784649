"""Pairs that teach most about the person who votes: by a reward that knows users, from their votes so far.

On every other ballot of a voter the pair is the one, among those that are open for them, on which the people that
they may be disagree most (evaluators/next_question.py). The other ballots, and which models come first because they
fell behind, are as without it, so that all models keep being compared. Nothing but media and this voter's own votes
decides, and nothing of it is shown: names stay hidden, and sides are random.
"""

import logging
import threading
from collections.abc import Sequence

from torch import Tensor

from visalign.errors import UserError
from visalign.evaluators.next_question import questions_by_gain
from visalign.media.image_files import read_image
from visalign.media.samples import Sample
from visalign.rewards.joint.persons import Persons
from visalign.votes.book import Matchup, VoteDatabase
from visalign.votes.style import kept_media

_log = logging.getLogger("visalign.votes")
EVERY = 2
"""Ballots of a voter of which one is chosen by what it tells of them."""
MOST_ASKED = 256
"""Open pairs of which one is chosen."""
WON = {"a": 1.0, "b": 0.0}


def sample_in(book: VoteDatabase, file: str, matchup: Matchup, frames: int) -> Sample:
    """One side of a matchup as rewards see it."""
    sources = tuple(read_image(book.media / each, each) for each in matchup.sources)
    notes = {name: str(book.media / value) if name == "mask" else value for name, value in matchup.notes.items()}
    known = {"source_prompt": matchup.asked, **notes} if sources else {}
    return Sample(matchup.prompt, kept_media(book.media / file, frames), known=known, sources=sources)


class Questioner:
    """Looks at the media of a vote database, and says which of several matchups tells most of a voter.

    Only what was looked at before is chosen from, so that no voter waits. Threads may share one.
    """

    def __init__(self, persons: Persons, book: VoteDatabase):
        self.persons, self.book = persons, book
        self._seen: dict[str, tuple[Tensor, Tensor] | None] = {}
        self._lock = threading.Lock()

    def look(self) -> None:
        """Read the media of all matchups that are new; one that cannot be read is never chosen."""
        for matchup in self.book.matchups():
            if not matchup.is_anchor and matchup.id not in self._seen:
                self._seen[matchup.id] = self._features(matchup)

    def _features(self, matchup: Matchup) -> tuple[Tensor, Tensor] | None:
        try:
            both = [sample_in(self.book, side.file, matchup, self.persons.reward.settings.frames)
                    for side in (matchup.a, matchup.b)]
            with self._lock:
                a, b = self.persons.features(both)
        except UserError as error:
            _log.warning("a pair is not chosen by what it tells: %s", error)
            return None
        return a, b

    def has_turn(self, voter: str, held: Sequence[str]) -> bool:
        """Whether the next ballot of a voter, whose page holds these already, is chosen so."""
        given, _ = self.book.progress(voter)
        return (given + len(held)) % EVERY == EVERY - 1

    def best(self, voter: str, among: Sequence[Matchup]) -> Matchup | None:
        """The matchup that tells most of a voter; None where none of them was looked at."""
        known = [(matchup, seen) for matchup in among if (seen := self._seen.get(matchup.id)) is not None]
        if not known:
            return None
        given = [vote for vote in self.book.votes() if vote.voter == voter and vote.choice in WON]
        answered = [(*seen, WON[vote.choice]) for vote in given if (seen := self._seen.get(vote.matchup)) is not None]
        with self._lock:
            margins, weights = self.persons.margins(voter, answered, [seen for _, seen in known])
        first = questions_by_gain(margins.numpy(), None if weights is None else weights.numpy())[0]
        return known[first][0]
