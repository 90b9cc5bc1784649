"""Annotations of images and videos by people (or rules): comparisons and single items, in named dimensions.

A table (as rows.py reads it; media as paths or bytes, prompts as text) in one of these shapes:

    prompt, a, b, <dimension>: "a", "b" or "tie"     a comparison; a dimension left out or null is not labelled
                                                     (also path_A, path_B and "A", "B", "same")
        optional: strength (how clear), <dimension>_a and <dimension>_b (ratings), kind (a name in reports),
                  user (the annotator; stored as a hash), source images of edits (edits.py),
                  context (under which it was given, such as "prefer the larger one"; rewards read it after the prompt),
                  reason_a and reason_b (what the annotator wrote of each, which `model.critique` learns to write)
    prompt, media, <dimension>: "good" or "bad"      one item; good ones are compared with bad ones of any prompt
    a preference set that `train` reads              its chosen side is preferred in the first dimension
"""

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from visalign.config import DataSettings
from visalign.config.offline import LabelStrengthSettings
from visalign.data.edits import KEPT_SOURCES, row_notes, row_sources
from visalign.data.label_strength import opinion_of
from visalign.data.preference_pair import edit_sample
from visalign.data.preferences import read_pairs
from visalign.data.readers import BROKEN_TABLE
from visalign.data.rows import (
    BadRow,
    MediaReference,
    check_row,
    media_reference,
    row_number,
    row_prompt,
    row_strength,
    row_user,
    table_rows,
    take,
)
from visalign.data.sources import default_root, is_table, local_path
from visalign.errors import UserError
from visalign.media.changes import MediaChange
from visalign.media.samples import Sample
from visalign.media.video_files import read_media

OUTCOMES = {"a": 1.0, "b": 0.0, "tie": 0.5, "same": 0.5}
GOODNESS = {"good": 1.0, "bad": 0.0}


@dataclass(frozen=True)
class AnnotatedMedia:
    """A prompt and one image or video, as bytes or a path; of an edit also the files of its source images, and what
    else is said of it (EDIT_NOTES). change: what is done to the medium after it is decoded. reason: what its annotator
    wrote of it."""

    prompt: str
    media: MediaReference
    sources: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict, hash=False)
    change: MediaChange | None = None
    reason: str = ""

    def digest(self) -> str:
        """Identifies the medium: a hash of its bytes, or its path, and its change."""
        own = hashlib.sha256(self.media).hexdigest() if isinstance(self.media, bytes) else self.media
        return f"{own} {self.change.name} {self.change.seed}" if self.change else own

    def sample(self, where: str, frames: int) -> Sample:
        """Decoded. Raises UserError naming `where`."""
        media = read_media(self.media, where, frames)
        found = edit_sample(self.prompt, self.change(media) if self.change else media, self.sources, self.notes, where)
        return replace(found, known=found.known | {"reason": self.reason}) if self.reason else found


@dataclass(frozen=True)
class Annotation:
    """Two items and, by dimension, who won (1: a, 0: b, 0.5: tie) and how each was rated.

    where: names its row. user: the annotator, hashed; None where unknown. context: under which it was given. source:
    the number of the table that it is from, where there are several. chance, label_margin, turned: what another reward
    holds of the label, as of a PreferencePair.
    """

    a: AnnotatedMedia
    b: AnnotatedMedia
    outcome: dict[str, float]
    where: str
    strength: float = 1.0
    rating_a: dict[str, float] = field(default_factory=dict)
    rating_b: dict[str, float] = field(default_factory=dict)
    kind: str = ""
    user: str | None = None
    context: str = ""
    source: int = 0
    chance: float = 1.0
    label_margin: float | None = None
    turned: bool = False

    @property
    def prompt(self) -> str:
        return self.a.prompt

    def as_labelled(self) -> "Annotation":
        """With the label that was given, whatever another reward holds of it."""
        outcome = {name: 1 - value for name, value in self.outcome.items()} if self.turned else self.outcome
        return replace(self, outcome=outcome, chance=1.0, label_margin=None, turned=False)

    def sample(self, side: str, frames: int) -> Sample:
        """Side `a` or `b` decoded, which knows whose annotation it is and reads its context after the prompt. Raises
        UserError naming the row."""
        item: AnnotatedMedia = getattr(self, side)
        if self.context:
            item = replace(item, prompt=f"{item.prompt}, {self.context}")
        sample = item.sample(self.where, frames)
        return replace(sample, known=sample.known | {"user": self.user}) if self.user else sample


def read_annotations(path: str, dimensions: tuple[str, ...], media_root: str | None = None,
                     seed: int = 0, strength: LabelStrengthSettings | None = None) -> list[Annotation]:
    """Every annotation of a table; single items are paired across prompts, good with bad, `seed` choosing partners.
    strength: how to take the columns that `visalign reward annotate` writes; None: not at all.

    Raises BadRow naming the row, or UserError when the table holds nothing usable.
    """
    root = Path(media_root).expanduser() if media_root else default_root(path)
    found: list[Annotation] = []
    singles: list[tuple[AnnotatedMedia, dict[str, float], str, str]] = []
    if is_preference_set(path):
        return [Annotation(*(AnnotatedMedia(p.prompt, media, p.sources, p.notes) for media in (p.chosen, p.rejected)),
                           {dimensions[0]: 1.0}, p.where, p.strength, user=p.user, chance=p.chance,
                           label_margin=p.label_margin, turned=p.turned)
                for p in read_pairs(DataSettings(path=path, media_root=media_root, strength=strength))]
    for where, row in table_rows(path):
        check_row(row)
        row |= {side: row[key] for side, key in (("a", "path_A"), ("b", "path_B")) if key in row}
        if "a" in row or "b" in row:
            item = comparison_of(row, where, dimensions,
                                 lambda side, row=row, where=where: annotated_media(row, side, where, root))
            found.append(_annotated(item, row, strength) if strength else item)
        elif "media" in row:
            if strength:
                raise UserError(f"{where}: is a single item, of whose label data.strength says nothing; leave it out")
            labels = _labels(row, where, dimensions, GOODNESS)
            singles.append((annotated_media(row, "media", where, root), labels, where, str(row.get("kind") or "")))
        else:
            raise BadRow(f"{where}: names neither a and b (a comparison) nor media (a single item)")
    found += list(cross_prompt_pairs(singles, seed))
    if not found:
        raise UserError(f"data {path}: holds no comparison, and no dimension with both good and bad items")
    return found


def _annotated(item: Annotation, row: dict, settings: LabelStrengthSettings) -> Annotation:
    """The comparison as the settings have it."""
    found = opinion_of(row, item.where, settings)
    if found is None:
        return item
    outcome = {name: 1 - value for name, value in item.outcome.items()} if found.turned else item.outcome
    return replace(item, outcome=outcome, strength=found.strength, chance=found.chance, label_margin=found.margin,
                   turned=found.turned)


def is_preference_set(path: str) -> bool:
    """Whether the source is one that `train` reads: by its first row, or because only its readers know the format."""
    local = local_path(path)
    if not local.is_dir() and not is_table(local):
        return True
    first = next((row for _, row in table_rows(path)), {})
    return bool(first) and not {"a", "b", "path_A", "media", BROKEN_TABLE} & first.keys()


def cross_prompt_pairs(singles: list[tuple[AnnotatedMedia, dict[str, float], str, str]],
                       seed: int) -> Iterator[Annotation]:
    """SoliReward's pairing: each good item against a bad one of the same dimension, whatever their prompts.

    Good items are also paired with each other, and bad ones likewise, as ties (the win-tie loss uses them). Each item
    starts one pair of either kind in each dimension it is labelled in, so the number of pairs stays linear.
    """
    rng = random.Random(seed)
    for dimension in sorted({name for _, labels, _, _ in singles for name in labels}):
        sides = {value: [s for s in singles if s[1].get(dimension) == value] for value in (1.0, 0.0)}
        for value, mine in sides.items():
            for item, _, where, kind in mine:
                others = [s for s in mine if s[0] is not item]
                for partners, partner_value in ((sides[1 - value], 1 - value), (others, value)):
                    if partners:
                        other, _, other_where, _ = rng.choice(partners)
                        outcome = 0.5 + (value - partner_value) / 2
                        yield Annotation(item, other, {dimension: outcome}, f"{where} with {other_where}", 1.0,
                                        {dimension: value}, {dimension: partner_value}, kind)


def comparison_of(row: dict, where: str, dimensions: tuple[str, ...],
                  item: Callable[[str], AnnotatedMedia]) -> Annotation:
    """The comparison of a row, whose sides `item` reads. Raises BadRow."""
    outcome = _labels(row, where, dimensions, OUTCOMES)
    ratings = [{name: value for name in dimensions
                if (value := row_number(row, f"{name}_{side}", where)) is not None} for side in "ab"]
    if not outcome and not any(ratings):
        raise BadRow(f"{where}: no label in any of the dimensions {', '.join(dimensions)}")
    a, b = (replace(item(side), reason=row_text(row, f"reason_{side}", where)) for side in "ab")
    return Annotation(a, b, outcome, where,
                     row_strength(row, where), *ratings, str(row.get("kind") or ""), row_user(row, where),
                     row_text(row, "context", where))


def row_text(row: dict, column: str, where: str) -> str:
    """What a column says; empty where nothing is said. Raises BadRow for what is no text."""
    said = row.get(column)
    if said is None or said != said:  # a gap in a column
        return ""
    if not isinstance(said, str):
        raise BadRow(f"{where}: '{column}' is not text but {type(said).__name__}")
    return said.strip()


def _labels(row: dict, where: str, dimensions: tuple[str, ...], allowed: dict[str, float]) -> dict[str, float]:
    labels = {}
    for name in dimensions:
        value = row.get(name)
        if value is None or value == "":
            continue
        word = str(value).strip().lower()
        if word not in allowed:
            raise BadRow(f"{where}: '{name}' is {value!r} (allowed: {', '.join(allowed)}, or null)")
        labels[name] = allowed[word]
    return labels


def annotated_media(row: dict, key: str, where: str, root: Path) -> AnnotatedMedia:
    """The image or video in column `key` of a row, with its prompt. Raises BadRow."""
    prompt = row_prompt(row, f"prompt_{key}" if row.get(f"prompt_{key}") else "prompt", where)
    sources = row_sources(row, where, root, KEPT_SOURCES)
    return AnnotatedMedia(prompt, media_reference(take(row, key, where), key, where, root), sources,
                          row_notes(row, where, root, KEPT_SOURCES) if sources else {})
