"""Thumbs: single images and videos that are said to be good or bad, which KTO learns from.

    label      prompt, one image or video (or `chosen` alone), and label: true or false, good or bad, up or down
    ratings    prompt, one image or video, and numbers: good from `data.good_from` on
    pairs      of any format: the chosen sample is good and the rejected one bad
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from visalign.config import DataSettings
from visalign.config.fitting import recipes_for
from visalign.data.captions import is_captioned
from visalign.data.dimensions import rated, weighed
from visalign.data.preference_pair import PreferencePair
from visalign.data.rows import NO, YES, BadRow, plain_names, row_user, says_yes
from visalign.errors import UserError

LABEL = "label"
_WORDS = {"good": "true", "up": "true", "bad": "false", "down": "false"}


def is_thumb(row: dict) -> bool:
    """Whether a row is one image or video with a label."""
    return LABEL in row and is_captioned(row)


def said_good(row: dict) -> list[bool | None]:
    """Whether the one sample of a row is good, None where its label is neither a yes nor a no; [] for other rows."""
    row = plain_names(row, frozenset((LABEL,)))
    alone = row.get("chosen") and not row.get("rejected")
    if LABEL not in row or not (is_captioned(row) or alone):
        return []
    word = str(row[LABEL]).strip().lower()
    word = _WORDS.get(word, word)
    return [True if word in YES else False if word and word in NO - {"nan"} else None]


def row_label(row: dict, where: str) -> bool:
    """Whether a row's sample is good. Raises BadRow where it does not say so."""
    value = row.get(LABEL)
    word = "" if value is None else str(value).strip().lower()
    if not word or word == "nan":
        raise BadRow(f"{where}: '{LABEL}' is {'empty' if LABEL in row else 'missing'}; true or false says whether the "
                     "one sample of this row is good (or give pairs: prompt, chosen, rejected; or ratings with "
                     f"data.good_from; of good samples alone take {recipes_for('images')})")
    return says_yes({LABEL: _WORDS.get(word, word)}, LABEL, where)


def thumbs_of_row(pairs: Sequence[PreferencePair], row: dict, where: str) -> list[PreferencePair]:
    """Single samples with a label, from what a row was read as."""
    labelled = (pair if pair.rejected or pair.desirable is not None else replace(pair, desirable=row_label(row, where))
                for pair in pairs)
    return [sample for pair in labelled for sample in singles(pair)]


def singles(pair: PreferencePair) -> list[PreferencePair]:
    """A pair as a good sample and a bad one; a single sample as it is."""
    if pair.rejected is None:
        return [pair]
    alone = replace(pair, rejected=None, chosen_reward=None, rejected_reward=None, rejected_prompt=None)
    return [replace(alone, desirable=True),
            replace(alone, prompt=pair.rejected_prompt or pair.prompt, chosen=pair.rejected, desirable=False)]


class RatedThumbs:
    """Rows of ratings: a sample is good whose weighted mean is at least `good_from`."""

    def __init__(self, weights: dict[str, float] | None, good_from: float):
        self.weights, self.good_from = weights, good_from

    def __call__(self, row: dict, where: str, roots: Sequence[Path]) -> list[PreferencePair]:
        prompt, media, ratings, weights = rated(row, where, roots, self.weights)
        good = weighed(ratings, weights) >= self.good_from
        return [PreferencePair(prompt, media, None, where, user=row_user(row, where), desirable=good)]


def check_both_kinds(labels: Counter, named: str, settings: DataSettings) -> None:
    """Raise UserError unless there are good samples and bad ones, {True: count, False: count}."""
    if all(labels[kind] for kind in (True, False)):
        return
    kind, other = ("good", "bad") if labels[True] else ("bad", "good")
    cut = " among those that data.max_pairs reads" * (settings.max_pairs is not None)
    threshold = "" if settings.good_from is None else f" with data.good_from {settings.good_from:g}"
    raise UserError(f"{named}: all {labels.total()} samples{cut} are {kind}{threshold}, and this objective learns from "
                    f"good ones and bad ones together; add {other} ones"
                    + (f", or take {recipes_for('images')} for good ones alone" if labels[True] else ""))
