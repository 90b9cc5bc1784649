"""What a trained reward holds of the label of a pair or a comparison, from the columns that `visalign reward annotate`
writes, and what it means for training. Wang et al. 2024, Secrets of RLHF in LLMs II (arXiv 2401.06080).

With mu the margin of the labelled winner (a mean over the reward's members, in log-odds) a pair is turned round where
its flip_chance is large, mu with it. max(mu, 0) is its strength, by which `objective.margin` lowers z: -log s(z - mu).
Doubt of a label is its chance (objectives/links.py): smoothed by a, (1 - a) l(z) + a l(-z), it is 1 - a.

Differs from the paper in: pairs are turned from a probability on, where the paper turns the one or two tenths with the
lowest mu; generators learn with it too, where the paper trains rewards; `soft` is not the paper's. mu is to come from a
reward that has not seen the pairs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from visalign.config.offline import LabelStrengthSettings
from visalign.data.preference_pair import PreferencePair
from visalign.data.rows import BadRow, row_number
from visalign.errors import UserError, notice

COLUMNS = ("flip_chance", "margin")
STRONGEST = 10
"""One in so many pairs is among the strongest, which the paper smooths too, so that their loss does not reach 0."""


class Opinion(NamedTuple):
    """Of a label, as the settings have it. turned: whether it is to be turned round; strength, chance, margin: of the
    label after that."""

    turned: bool
    strength: float
    chance: float
    margin: float


def opinion_of(row: dict, where: str, settings: LabelStrengthSettings, chance: float = 1.0) -> Opinion | None:
    """What a row says of its label, whose own chance this is; None where the reward gave no value for it.

    Raises UserError where the row has no such columns, BadRow for what is in them.
    """
    missing = next((name for name in COLUMNS if name not in row), None)
    if missing:
        raise UserError(f"{where}: has no column '{missing}', which data.strength reads; write it with `visalign "
                        "reward annotate REWARD DATA`, or leave data.strength out")
    flip_chance, margin = (row_number(row, name, where) for name in COLUMNS)
    if flip_chance is None or margin is None:
        return None
    if not 0 <= flip_chance <= 1:
        raise BadRow(f"{where}: 'flip_chance' is {flip_chance:g} (allowed: 0 to 1)")
    if chance < 1 and (settings.soft or settings.smooth):
        raise BadRow(f"{where}: has a chance of its own ({chance:g}), and data.strength says how sure the label "
                     "is, too; leave out the column, or data.strength.soft and smooth")
    turned = settings.flip is not None and flip_chance >= settings.flip
    if turned:
        flip_chance, margin = 1 - flip_chance, -margin
    if settings.soft:
        chance = max(1 - flip_chance, 0.5)
    return Opinion(turned, min(max(margin, 0.0), settings.most), chance, margin)


def as_annotated(pair: PreferencePair, row: dict, where: str, settings: LabelStrengthSettings) -> PreferencePair:
    """The pair as the settings have it. Raises as `opinion_of`."""
    found = opinion_of(row, where, settings, pair.chance)
    if found is None:
        return pair
    pair = replace(pair.swapped(), turned=True) if found.turned else pair
    return replace(pair, strength=found.strength, chance=found.chance, label_margin=found.margin)


def smoothed(items: Sequence[Any], share: float) -> list[Any]:
    """The items, dataclasses with label_margin (None: unknown) and chance, with that much doubt of each whose margin is
    below 0 or among the strongest tenth of all."""
    margins = sorted((item.label_margin for item in items if item.label_margin is not None), reverse=True)
    strongest = margins[-(-len(margins) // STRONGEST) - 1] if margins else 0.0
    return [replace(item, chance=1 - share) if item.label_margin is not None and (
        item.label_margin < 0 or item.label_margin >= strongest) else item for item in items]


def say_what_was_turned(settings: LabelStrengthSettings, pairs: int, turned: int, unknown: int) -> None:
    """Raises UserError where the reward gave a value for no pair."""
    if pairs == unknown:
        raise UserError(f"data.strength: flip_chance and margin are empty in all {pairs} pairs, so the reward could "
                        "score none of them; annotate them with another one")
    if settings.flip is not None:
        notice(f"data.strength: {turned} of {pairs} pairs, whose flip_chance is at least {settings.flip:g}, are turned "
               "round")
    if unknown:
        notice(f"data.strength: {unknown} of {pairs} pairs, which the reward could not score, stay as they are")
