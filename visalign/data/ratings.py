"""Single images, videos and texts with labels, a column each: what a calibration, a one-to-many test and a probe read.

    prompt, image (or video, media, path, file ...), <label>      one sample; of edits also its source images (edits.py)
    prompt, answer (or response, completion, output), <label>     one text
    prompt, a, b (or path_A, path_B), <label>_a and <label>_b     ratings beside a comparison: two samples

A label is a number, or `good` (1) or `bad` (0); `read_ratings` may be given another reading of it. A row whose label is
empty in every column is passed over.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visalign.data.annotations import (
    GOODNESS,
    AnnotatedMedia,
    Annotation,
    annotated_media,
    comparison_of,
    read_annotations,
)
from visalign.data.entry import Entry
from visalign.data.generations import media_key, names_no_media
from visalign.data.rows import BadRow, check_row, find_file, row_number, table_rows
from visalign.data.sources import default_root
from visalign.data.text_annotations import AnnotatedText, annotated_text, read_text_annotations
from visalign.data.text_generations import answer_key
from visalign.errors import UserError, nearest
from visalign.media.kinds import is_image_name, is_video_name
from visalign.media.source_images import prompt_group, with_sources
from visalign.storage.text_files import normal_form, printable

ReadLabel = Callable[[dict, str, str], Any]
"""(row, column, where) to a label, None where there is none; raises BadRow."""


@dataclass(frozen=True)
class RatedMedia:
    """One sample and its labels by name. where: names its row. kind: a name in reports."""

    media: AnnotatedMedia
    labels: dict[str, Any]
    where: str
    kind: str = ""

    @property
    def group(self) -> str:
        return media_group(self.media)


def media_group(media: AnnotatedMedia) -> str:
    """What a sample has in common with others of its prompt and source images, as `Entry.group` has it."""
    prompt = normal_form(printable(media.prompt))
    return prompt_group(with_sources(prompt, media.sources, media.notes)) if media.sources else prompt


def media_content(media: AnnotatedMedia, where: str) -> str:
    """A hash of what a sample shows, as `Entry.digest` has it. Raises UserError where its file cannot be read."""
    if isinstance(media, AnnotatedText):
        return media.digest()
    if isinstance(media.media, bytes):
        return hashlib.sha256(media.media).hexdigest()
    try:
        return Entry(where, Path(str(media.media)), "").digest()
    except OSError as error:
        raise UserError(f"{where}: {media.media} cannot be read ({error.strerror})") from None


def row_rating(row: dict, name: str, where: str) -> float | None:
    """A number, or 1 for `good` and 0 for `bad`; None where it is empty."""
    word = str(row.get(name)).strip().lower()
    return GOODNESS[word] if word in GOODNESS else row_number(row, name, where)


def row_class(row: dict, name: str, where: str) -> str | None:
    """Whatever is written there, as a text; None where it is empty."""
    value = row.get(name)
    return None if value is None or value != value or not str(value).strip() else str(value).strip()


def read_ratings(path: str, names: tuple[str, ...], media_root: str | None = None,
                 label: ReadLabel = row_rating, unlabelled: bool = False) -> list[RatedMedia]:
    """Every sample of a table that has a label in one of the columns `names`; `unlabelled`: the others as well.

    Raises BadRow naming the row, or UserError where none of them has a label, and for a table without samples.
    """
    root = Path(media_root).expanduser() if media_root else default_root(path)
    found: list[RatedMedia] = []
    columns: dict[str, None] = {}
    for where, row in table_rows(path):
        check_row(row)
        columns |= dict.fromkeys(row)
        row |= {side: row[key] for side, key in (("a", "path_A"), ("b", "path_B")) if key in row}
        found += _compared(row, where, names, root, label) if "a" in row or "b" in row else [
            _single(row, where, names, root, label)]
    if unlabelled and found:
        return found
    found = [each for each in found if each.labels]
    if not found:
        lacking = next((name for name in names if not {name, f"{name}_a", f"{name}_b"} & columns.keys()), None)
        meant = nearest(lacking, columns) if lacking and columns else ""
        raise UserError(f"data {path}: no row has a label in {' or '.join(names)}{meant}")
    return found


def has_outcomes(path: str, name: str) -> bool:
    """Whether a table has comparisons without ratings in `name`: then that column, or which side was chosen, says who
    won."""
    columns = {key for _, row in table_rows(path) for key in row}
    return bool({"a", "path_A", "chosen"} & columns) and not {f"{name}_a", f"{name}_b"} & columns


def read_outcomes(path: str, name: str, media_root: str | None = None) -> list[Annotation]:
    """The comparisons of a table that are decided or tied in `name`, of images, videos or texts.

    Raises BadRow naming the row, or UserError where there is none.
    """
    root = Path(media_root).expanduser() if media_root else default_root(path)
    found: list[Annotation] = []
    columns: dict[str, None] = {}
    for where, row in table_rows(path):
        check_row(row)
        columns |= dict.fromkeys(row)
        if "chosen" in row:  # a preference set, which its own readers know
            texts = _is_text(row["chosen"], root)
            return read_text_annotations(path, (name,)) if texts else read_annotations(path, (name,), media_root)
        row |= {side: row[key] for side, key in (("a", "path_A"), ("b", "path_B")) if key in row}
        if row.get(name) not in (None, ""):
            found.append(comparison_of(row, where, (name,), _side_reader(row, where, root)))
    if not found:
        raise UserError(f"data {path}: no comparison is decided or tied in {name}"
                        f"{'' if name in columns else nearest(name, columns)}")
    return found


def _side_reader(row: dict, where: str, root: Path) -> Callable[[str], AnnotatedMedia]:
    texts = _is_text(row.get("a"), root)
    return lambda side: annotated_text(row, side, where) if texts else annotated_media(row, side, where, root)


def _compared(row: dict, where: str, names: tuple[str, ...], root: Path, label: ReadLabel) -> list[RatedMedia]:
    """Both samples of a comparison, as they are rated."""
    kind, read = str(row.get("kind") or ""), _side_reader(row, where, root)
    labels = {side: _labels({name: row.get(f"{name}_{side}") for name in names}, names, where, label) for side in "ab"}
    return [RatedMedia(read(side), labels[side], where, kind) for side in "ab"]


def _is_text(side: Any, root: Path) -> bool:
    """Whether a side of a comparison is a text, which names no file."""
    return isinstance(side, str) and not (is_image_name(side) or is_video_name(side) or find_file(side, [root]))


def _single(row: dict, where: str, names: tuple[str, ...], root: Path, label: ReadLabel) -> RatedMedia:
    key = media_key(row)
    answer = answer_key(row) if key is None else None
    if key is None and answer is None:
        raise BadRow(f"{where}: {names_no_media(row)}")
    media = annotated_text(row, answer, where) if key is None else annotated_media(row, key, where, root)
    return RatedMedia(media, _labels(row, names, where, label), where, str(row.get("kind") or ""))


def _labels(row: dict, names: tuple[str, ...], where: str, label: ReadLabel) -> dict[str, Any]:
    read = {name: label(row, name, where) for name in names}
    return {name: value for name, value in read.items() if value is not None}
