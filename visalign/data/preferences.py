"""Readers of preference data in the public formats, one row at a time, so that sets may be larger than memory.

Formats: `pickapic` (parquet with jpg_0, jpg_1, label_0, caption; ties dropped and counted), `hpd` (JSON list with
prompt, image_path, human_preference), `table` (JSONL, CSV or parquet with prompt, chosen, rejected and optionally
strength, chosen_reward, rejected_reward; pictures and clips as paths or bytes), `comparisons` and `ratings`
(several dimensions, see dimensions.py), `hub` (a `datasets` id with any of these column sets).
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from visalign.config import Data
from visalign.data.dimensions import Ratings, check_weights, from_comparison, is_comparison, is_rating
from visalign.data.pair import Pair
from visalign.data.rows import (
    BadRow,
    default_root,
    picture,
    row_number,
    row_prompt,
    table_files,
    table_rows,
    take,
)
from visalign.errors import UserError, nearest


@dataclass
class Counts:
    """What a reader met besides usable pairs."""

    pairs: int = 0
    ties: int = 0


def read_pairs(settings: Data, counts: Counts | None = None,
               on_bad_row: Callable[[BadRow], None] | None = None) -> Iterator[Pair]:
    """Stream pairs from `settings.path`.

    A broken row raises BadRow, or is handed to `on_bad_row`. Raises UserError when nothing usable is found.
    """
    counts = counts if counts is not None else Counts()
    source = str(settings.path)
    kind = settings.format if settings.format != "auto" else _guess_format(source)
    root = Path(settings.image_root).expanduser() if settings.image_root else default_root(source)
    rows = _ROWS[kind](source, settings.split)
    check_weights(settings.dimensions)
    converters = {"pickapic": _from_pickapic, "hpd": _from_hpd, "table": _from_table,
                  "ratings": Ratings(settings.dimensions),
                  "comparisons": functools.partial(from_comparison, weights=settings.dimensions)}
    columns: set[str] = set()
    for where, row in rows:
        columns |= row.keys()
        convert = converters[_columns_kind(row, settings.dimensions) if kind in ("hub", "table") else kind]
        try:
            found = convert(row, where, root)
        except BadRow as error:
            if on_bad_row is None:
                raise
            on_bad_row(error)
            continue
        counts.ties += found == []
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


def check_source(settings: Data) -> None:
    """Raise UserError when the source cannot be what it is said to be, before anything is loaded."""
    next(iter(read_pairs(settings.model_copy(update={"max_pairs": 1}))))


def _guess_format(source: str) -> str:
    path = Path(source).expanduser()
    if path.is_dir():
        return "table" if not any(path.glob("*.json")) else "hpd"
    if path.suffix == ".json":
        return "hpd"
    if path.suffix in (".jsonl", ".csv", ".parquet"):
        return "table"
    if path.exists():
        raise UserError(f"data {source}: unknown kind of file '{path.suffix}' (allowed: .parquet, .jsonl, .csv, .json)")
    if path.suffix or source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(f"data {source}: there is no such file or folder")
    return "hub"


def _json_list_rows(source: str, split: str) -> Iterator[tuple[str, dict]]:
    for file in table_files(source, ".json"):
        try:
            rows = json.loads(file.read_text())
        except (ValueError, OSError) as error:
            raise UserError(f"data {file}: not readable as JSON ({error})") from None
        if not isinstance(rows, list):
            raise UserError(f"data {file}: expected a JSON list of objects, found {type(rows).__name__}")
        for number, row in enumerate(rows, 1):
            yield f"{file} entry {number}", row if isinstance(row, dict) else {}


def _hub_rows(source: str, split: str) -> Iterator[tuple[str, dict]]:
    import datasets

    try:
        rows = datasets.load_dataset(source, split=split, streaming=True)
    except Exception as error:  # the hub raises many kinds; all mean the same to a person
        reason = type(error).__name__
        raise UserError(f"data {source}: no local file, and the hub did not give it ({reason})") from error
    for number, row in enumerate(rows, 1):
        yield f"{source} row {number}", row


_ROWS = {"table": table_rows, "pickapic": table_rows, "hpd": _json_list_rows, "hub": _hub_rows,
         "comparisons": table_rows, "ratings": table_rows}


def _columns_kind(row: dict, weights: dict[str, float] | None) -> str:
    if "jpg_0" in row or "label_0" in row:
        return "pickapic"
    return "comparisons" if is_comparison(row) else "ratings" if is_rating(row, weights) else "table"


def _from_pickapic(row: dict, where: str, root: Path) -> list[Pair]:
    prompt = row_prompt(row, "caption", where)
    label = row_number(row, "label_0", where)
    if label not in (0, 0.5, 1):
        raise BadRow(f"{where}: 'label_0' is {row.get('label_0')!r} (allowed: 0, 0.5, 1)")
    if label == 0.5:
        return []
    pictures = [picture(take(row, key, where), key, where, root) for key in ("jpg_0", "jpg_1")]
    chosen, rejected = pictures if label == 1 else reversed(pictures)
    return [Pair(prompt, chosen, rejected, where)]


def _from_hpd(row: dict, where: str, root: Path) -> list[Pair]:
    """HPD v2: `human_preference` holds 1 for the preferred picture of two, or `rank` the place of each of several."""
    prompt = row_prompt(row, "prompt", where)
    paths = take(row, "image_path" if "image_path" in row else "image_paths", where)
    preferred, ranked = row.get("human_preference"), row.get("rank")
    places = preferred if preferred is not None else ranked
    numbers = isinstance(places, list) and all(isinstance(place, int | float) for place in places)
    if not isinstance(paths, list) or not numbers or len(paths) != len(places):
        raise BadRow(f"{where}: needs as many 'human_preference' (or 'rank') entries as images")
    if preferred is not None:
        places = [-place for place in places]
    pairs = []
    for a, b in itertools.combinations(range(len(paths)), 2):
        if places[a] != places[b]:
            chosen, rejected = (a, b) if places[a] < places[b] else (b, a)
            pairs.append(Pair(prompt, picture(paths[chosen], "image_path", where, root),
                              picture(paths[rejected], "image_path", where, root), where))
    return pairs


def _from_table(row: dict, where: str, root: Path) -> list[Pair]:
    prompt = row_prompt(row, "prompt", where)
    if row.get("label") == "tie" or row.get("tie") in (True, "true", "True", 1):
        return []
    return [Pair(prompt, picture(take(row, "chosen", where), "chosen", where, root),
                 picture(take(row, "rejected", where), "rejected", where, root), where,
                 row_number(row, "strength", where, 1.0), row_number(row, "chosen_reward", where),
                 row_number(row, "rejected_reward", where))]
