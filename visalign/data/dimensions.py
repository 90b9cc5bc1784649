"""Preferences in several dimensions, such as VQ, MQ and TA, combined into one by the user's weights.

A direction is a weight for each dimension; a negative weight prefers less. Two kinds of table have dimensions:

    comparisons   two media (path_A and path_B, or a and b), a prompt, and who won each dimension: A, B or same
                  (VideoGen-RewardBench's CSV)
    ratings       one medium (file, video, path, ...), a prompt, and a number in each dimension (VideoFeedback's
                  columns); every two media of a prompt are compared
"""

from collections.abc import Sequence
from pathlib import Path

from visalign.data.edits import SOURCES_OF_ROW
from visalign.data.generations import MEDIA_KEYS
from visalign.data.preference_pair import PreferencePair
from visalign.data.rows import (
    BadRow,
    MediaReference,
    media_reference,
    row_chance,
    row_number,
    row_prompt,
    row_user,
    take,
)
from visalign.errors import UserError, nearest

KNOWN = ("VQ", "MQ", "TA", "visual quality", "temporal consistency", "dynamic degree", "text-to-video alignment",
         "factual consistency")
_OVERALL = "Overall"
SIDES = {"a": 1.0, "b": -1.0, "same": 0.0, "tie": 0.0}
_PROMPTS = ("prompt", "text prompt")


def is_comparison(row: dict) -> bool:
    return {"path_A", "path_B"} <= row.keys() or {"a", "b"} <= row.keys()


def is_rating(row: dict, weights: dict[str, float] | None) -> bool:
    return "chosen" not in row and any(key in row for key in MEDIA_KEYS) and any(
        name in row for name in weights or KNOWN)


def from_comparison(row: dict, where: str, root: Path, weights: dict[str, float] | None) -> list[PreferencePair]:
    """The pair of one comparison; none where the weighted votes are even. Raises BadRow for invalid labels."""
    keys = ("path_A", "path_B") if "path_A" in row else ("a", "b")
    weights = directions(row, where, weights)
    votes = {name: vote for name in weights if (vote := _vote(row, name, where)) is not None}
    _refuse_unlabelled(votes, weights, row, where)
    margin = weighed(votes, weights)
    media = [media_reference(take(row, key, where), key, where, root) for key in keys]
    prompt = row_prompt(row, _prompt_key(row), where)
    chance = row_chance(row, where)
    if chance < 1 and set(votes) != {_OVERALL}:
        raise BadRow(f"{where}: 'chance' speaks of {_OVERALL}, and this pair is decided by {', '.join(votes)}; leave "
                     "out the column, or data.dimensions")
    return [] if margin == 0 else [_pair(prompt, *media, margin, where, chance, row_user(row, where))]


class Ratings:
    """Compares each rated medium with the earlier ones of its prompt. Called with the rows in turn."""

    def __init__(self, weights: dict[str, float] | None):
        self.weights = weights
        self._seen: dict[tuple, list[tuple]] = {}

    def __call__(self, row: dict, where: str, root: Path) -> list[PreferencePair] | None:
        """The new pairs; [] where all are even, None for a prompt's first medium."""
        prompt, media, ratings, weights = rated(row, where, root, self.weights)
        earlier = self._seen.setdefault((prompt, row.get(SOURCES_OF_ROW)), [])
        pairs = []
        for other, theirs, there in earlier:
            both = {name: ratings[name] - theirs[name] for name in ratings.keys() & theirs.keys()}
            margin = weighed(both, weights)
            if margin:
                pairs.append(_pair(prompt, media, other, margin, f"{where} with {there}"))
        is_first = not earlier
        earlier.append((media, ratings, where))
        return None if is_first else pairs


def rated(row: dict, where: str, root: Path | Sequence[Path],
          weights: dict[str, float] | None) -> tuple[str, MediaReference, dict[str, float], dict[str, float]]:
    """Prompt, medium, ratings and the weights of their dimensions. Raises BadRow."""
    key = next((key for key in MEDIA_KEYS if row.get(key)), MEDIA_KEYS[0])
    prompt, weights = row_prompt(row, _prompt_key(row), where), directions(row, where, weights)
    ratings = {name: value for name in weights if (value := row_number(row, name, where)) is not None}
    _refuse_unlabelled(ratings, weights, row, where)
    return prompt, media_reference(take(row, key, where), key, where, root), ratings, weights


def directions(row: dict, where: str, weights: dict[str, float] | None) -> dict[str, float]:
    """The user's weights, or else `Overall` where the row has it, or all known dimensions with equal weight."""
    if weights:
        return weights
    if row.get(_OVERALL) not in (None, ""):
        return {_OVERALL: 1.0}
    found = [name for name in KNOWN if name in row]
    if not found:
        raise BadRow(f"{where}: the dimensions are not recognised; name columns and their weights in "
                     "data.dimensions")
    return dict.fromkeys(found, 1.0)


def weighed(votes: dict[str, float], weights: dict[str, float]) -> float:
    """Weighted mean of the votes that were cast; positive: the first side wins. 0 where none counts."""
    size = sum(abs(weights[name]) for name in votes)
    return sum(weights[name] * vote for name, vote in votes.items()) / size if size else 0.0


def _refuse_unlabelled(labels: dict[str, float], weights: dict[str, float], row: dict, where: str) -> None:
    if not labels:
        name = next(iter(weights))
        raise BadRow(f"{where}: no label in any of the dimensions {', '.join(weights)}{nearest(name, row)}")


def check_weights(weights: dict[str, float] | None) -> None:
    """Raise UserError when all weights are 0."""
    if weights is not None and not any(weights.values()):
        raise UserError("data.dimensions: all weights are 0; give at least one dimension a weight")


def _vote(row: dict, name: str, where: str) -> float | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    vote = SIDES.get(str(value).strip().lower())
    if vote is None:
        raise BadRow(f"{where}: '{name}' is {value!r} (allowed: A, B, same, or nothing)")
    return vote


def _prompt_key(row: dict) -> str:
    return next((key for key in _PROMPTS if key in row), _PROMPTS[0])


def _pair(prompt: str, first, second, margin: float, where: str, chance: float = 1.0,
          user: str | None = None) -> PreferencePair:
    chosen, rejected = (first, second) if margin > 0 else (second, first)
    return PreferencePair(prompt, chosen, rejected, where, abs(margin), chance=chance, user=user)
