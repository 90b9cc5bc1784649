"""Preference data, streamed row by row, so that sets may be larger than memory: from tables (formats.py) or the hub."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from visalign.config import DataSettings
from visalign.data.captions import folder_rows, holds_captions
from visalign.data.dimensions import check_weights
from visalign.data.embedded_edits import EDIT_PAIRS, edit_pair_rows
from visalign.data.embedded_pairs import PAIRS, drawing_rows
from visalign.data.embedded_tastes import TASTES, taste_rows
from visalign.data.formats import Converters
from visalign.data.label_strength import as_annotated
from visalign.data.preference_pair import PreferencePair
from visalign.data.readers import checked
from visalign.data.rows import BadRow, check_row, shortened, table_rows
from visalign.data.sources import default_root, has_lists, has_tables, is_table, local_path, table_files
from visalign.data.thumbs import said_good
from visalign.errors import UserError, nearest
from visalign.storage.hub_files import check_hub_dataset, hub_reason

EMBEDDED_PAIRS = {PAIRS: drawing_rows, EDIT_PAIRS: edit_pair_rows, TASTES: taste_rows}
"""Sets of pairs that come with visalign."""


@dataclass
class RowCounts:
    """What the rows of a source are: usable pairs and single samples together, and ties.

    labels: of rows of one sample with a label, how many are good (True), bad (False), or neither (None); counted as
    they are read.
    """

    pairs: int = 0
    ties: int = 0
    labels: Counter = field(default_factory=Counter)


def read_pairs(settings: DataSettings, counts: RowCounts | None = None,
               on_bad_row: Callable[[BadRow], None] | None = None, compared: bool = True,
               again: bool = False, labelled: bool = False) -> Iterator[PreferencePair]:
    """Stream pairs from `settings.path`, or from each of `settings.sources` in turn, as `origin` says; with
    `settings.swap` each the other way round, and with `settings.strength` as a reward's columns say.

    compared: whether pairs without a rejected half are refused. again: note in `settings.cache` what bytes the tables
    hold, and read no bytes that are known from an earlier time before they are wanted. labelled: give single samples
    that are good or bad (thumbs.py), each counted as a pair. A broken row raises BadRow, or is passed to `on_bad_row`.
    Raises UserError when nothing usable is found in a source.
    """
    counts = counts if counts is not None else RowCounts()
    for place, source in enumerate(settings.each):
        own = RowCounts(labels=counts.labels)
        for pair in _read_source(source, own, on_bad_row, compared, again, labelled):
            counts.pairs += 1
            pair = replace(pair, origin=place, repeats=pair.repeats * settings.repeats(place))
            yield pair.swapped() if settings.swap else pair
        counts.ties += own.ties


def _read_source(settings: DataSettings, counts: RowCounts, on_bad_row: Callable[[BadRow], None] | None,
                 compared: bool, again: bool, labelled: bool) -> Iterator[PreferencePair]:
    source, cache = str(settings.path), Path(settings.cache).expanduser()
    check_weights(settings.dimensions)
    rows, roots = _open(settings, source, cache / "tables" if again else None)
    convert = Converters(settings.format, settings.dimensions, compared, cache / "sources", settings.captions,
                         labelled, settings.good_from)
    columns: set[str] = set()
    for where, row in rows:
        columns |= row.keys()
        try:
            check_row(row)
            found = convert(row, where, roots)
            if settings.strength and found:
                found = [as_annotated(pair, row, where, settings.strength) for pair in found]
        except BadRow as error:
            if on_bad_row is None:
                raise
            on_bad_row(error)
            continue
        counts.ties += found == []
        counts.labels.update(said_good(row))
        for pair in found or ():
            counts.pairs += 1
            yield pair
            if settings.max_pairs and counts.pairs >= settings.max_pairs:
                return
    unknown = next((name for name in settings.dimensions or () if name not in columns), None)
    if unknown:
        raise UserError(f"data.dimensions: no row of {source} is labelled in '{unknown}'{nearest(unknown, columns)}")
    if counts.pairs == 0 and counts.ties:
        raise UserError(f"data {source}: all {counts.ties} rows are ties, so there is no preference to learn")
    if counts.pairs == 0:
        raise UserError(f"data {source}: holds no usable pair")


def is_local(settings: DataSettings) -> bool:
    """Whether the source is on this machine; raises UserError for what can be neither a file nor a hub id."""
    source = str(settings.path)
    path = local_path(source)
    if source in EMBEDDED_PAIRS:
        return True
    if settings.format == "hub":
        return False
    try:
        if path.exists():
            return True
    except OSError as error:
        raise UserError(f"data {shortened(source)}: cannot be read ({error.strerror})") from None
    if "://" in source:
        raise UserError(f"data {source}: is a web address, which is not downloaded; give a file, a folder or a hub id")
    if is_table(path) or path.suffix or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"data {source}: there is no such file or folder; when the path is right, look at it with: "
                        "visalign data check PATH")
    return False


def _open(settings: DataSettings, source: str, notes: Path | None) -> tuple[Iterator[tuple[str, dict]], list[Path]]:
    """The rows, and the folders that their paths may start from."""
    if source in EMBEDDED_PAIRS:
        return EMBEDDED_PAIRS[source](), []
    if not is_local(settings):
        return hub_rows(source, settings.split), [Path(settings.media_root or ".").expanduser()]
    folder = local_path(source)
    if folder.is_dir() and (settings.format == "captioned" or not has_tables(folder)) and holds_captions(
            folder, settings.captions, has_lists(folder)):
        if settings.split != "train":
            raise UserError(f"data.split {settings.split}: {source} is a folder of media, which has no splits; name "
                            "one of its subfolders as data.path")
        return folder_rows(source, folder, settings.captions), [folder]
    files = table_files(source, settings.split)
    if settings.media_root:
        root = Path(settings.media_root).expanduser()
        if not root.is_dir():
            raise UserError(f"data.media_root {root}: there is no such folder")
        return table_rows(source, settings.split, notes), [root]
    roots = dict.fromkeys([default_root(source), *(file.parent for file in files)])
    return table_rows(source, settings.split, notes), list(roots)


def hub_rows(source: str, split: str) -> Iterator[tuple[str, dict]]:
    """Rows of a set on the hub, as they arrive. Raises UserError when it does not give them."""
    import datasets

    number = 0
    try:
        check_hub_dataset(source)
        for row in datasets.load_dataset(source, split=split, streaming=True).decode(False):
            number += 1
            yield f"{source} row {number}", checked(f"{source} row {number}", row)
    except Exception as error:  # the hub raises many kinds of errors; to the user all mean the same
        reason = hub_reason(error)
        raise UserError(f"data {source}: no local file, and the hub did not give it ({reason})" if not number else
                        f"data {source}: the hub broke off after row {number} ({reason})") from error
