"""Anchors: matchups that are planted among the others to see how reliable voters are. They count for no model, and are
neither exported nor scored.

    obvious   a medium beside a spoilt copy of itself: reliable voters prefer what is whole
    repeat    a matchup that this voter has voted on before, with sides drawn anew: reliable voters say the same again
"""

import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from visalign.media.answers import Answer
from visalign.media.samples import Media, Video
from visalign.votes.book import ANCHOR, Matchup, MatchupSide, Vote, VoteDatabase

OBVIOUS, REPEAT = f"{ANCHOR}obvious-", f"{ANCHOR}repeat-"
SPOILT = "spoilt"
"""What stands for the model of a spoilt medium."""
CELLS = 12
GAP = 5
"""Votes between a matchup and its repeat, so that it is not recognised at once."""


def obvious_of(matchup: Matchup, spoilt_file: str) -> Matchup:
    """Its side a beside a spoilt copy of it."""
    return replace(matchup, b=MatchupSide(SPOILT, None, spoilt_file), id=OBVIOUS + matchup.id,
                   settings={name: value for name, value in matchup.settings.items() if name != "rollout"})


def repeat_of(matchup: Matchup) -> Matchup:
    """The same once more, for voters who have voted on it."""
    return replace(matchup, id=REPEAT + matchup.id,
                   settings={name: value for name, value in matchup.settings.items() if name != "rollout"})


def spoilt(media: Media, seed: int = 0) -> Media:
    """Plainly worse: an image, or every frame of a video, as a coarse mosaic under noise; a text with its words
    mixed."""
    if isinstance(media, Answer):
        words = media.split()
        random.Random(seed).shuffle(words)
        return Answer(" ".join(words))
    if isinstance(media, Video):
        return Video([_mosaic(frame, seed + i) for i, frame in enumerate(media.frames)], media.fps)
    return _mosaic(media, seed)


def _mosaic(image: Image.Image, seed: int) -> Image.Image:
    side = [max(1, min(CELLS, length // 2)) for length in image.size]
    coarse = image.convert("RGB").resize(side, Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)
    noise = np.random.default_rng(seed).normal(0, 40, (*image.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(coarse, np.float64) + noise, 0, 255).astype(np.uint8))


def next_anchor(book: VoteDatabase, voter: str, share: float, held: Iterable[str] = ()) -> Matchup | None:
    """The anchor that this voter should see now, so that `share` of their ballots are anchors; None where none is due.

    held: ids of matchups that their page holds already. Obvious anchors and repeats take turns, as far as there are
    any. """
    if share <= 0:
        return None
    held, votes = set(held), [vote for vote in book.votes() if vote.voter == voter]
    seen = [vote.matchup for vote in votes if vote.matchup.startswith(ANCHOR)]
    waiting = sum(number.startswith(ANCHOR) for number in held)
    if len(seen) + waiting + 1 > share * (len(votes) + len(held) + 1):
        return None
    repeats = sum(number.startswith(REPEAT) for number in [*seen, *held])
    kinds = [_open_obvious, _open_repeat]
    for find in kinds[::-1] if 2 * repeats < len(seen) + waiting else kinds:
        if (found := find(book, votes, held | set(seen))) is not None:
            return found
    return None


def _open_obvious(book: VoteDatabase, votes: list[Vote], seen: set[str]) -> Matchup | None:
    return next((matchup for matchup in book.matchups() if matchup.id.startswith(OBVIOUS) and matchup.id not in seen),
                None)


def _open_repeat(book: VoteDatabase, votes: list[Vote], seen: set[str]) -> Matchup | None:
    """Of the oldest decided vote that lies far enough back; added to the book where it is new."""
    for vote in votes[:max(0, len(votes) - GAP)]:
        if not vote.matchup.startswith(ANCHOR) and vote.choice != "skip" and REPEAT + vote.matchup not in seen:
            again = repeat_of(book.matchup(vote.matchup))
            book.add(again)
            return again
    return None
