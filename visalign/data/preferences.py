"""Readers of preference data in the public formats, one row at a time, so that sets may be larger than memory.

Formats: `pickapic` (parquet with jpg_0, jpg_1, label_0, caption; ties dropped and counted), `hpd` (JSON list with
prompt, image_path, human_preference), `table` (JSONL, CSV or parquet with prompt, chosen, rejected and optionally
strength, chosen_reward, rejected_reward; pictures as paths or bytes), `hub` (a `datasets` id with either column set).
"""

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from visalign.config import Data
from visalign.errors import UserError, nearest
from visalign.media import read_image

Picture = bytes | str


@dataclass(frozen=True)
class Pair:
    """A prompt and two pictures (bytes or paths), the chosen one preferred; `where` names its row."""

    prompt: str
    chosen: Picture
    rejected: Picture
    where: str
    strength: float = 1.0
    chosen_reward: float | None = None
    rejected_reward: float | None = None

    def images(self) -> tuple[Image.Image, Image.Image]:
        """Both pictures decoded. Raises UserError naming the row."""
        return read_image(self.chosen, self.where), read_image(self.rejected, self.where)


@dataclass
class Counts:
    """What a reader met besides usable pairs."""

    pairs: int = 0
    ties: int = 0


class BadRow(UserError):
    """One row that cannot be used; `data check` lists them, training stops at the first."""


def read_pairs(settings: Data, counts: Counts | None = None,
               on_bad_row: Callable[[BadRow], None] | None = None) -> Iterator[Pair]:
    """Stream pairs from `settings.path`.

    A broken row raises BadRow, or is handed to `on_bad_row`. Raises UserError when nothing usable is found.
    """
    counts = counts if counts is not None else Counts()
    source = str(settings.path)
    kind = settings.format if settings.format != "auto" else _guess_format(source)
    root = Path(settings.image_root).expanduser() if settings.image_root else _default_root(source)
    rows = _ROWS[kind](source, settings.split)
    converters = {"pickapic": _from_pickapic, "hpd": _from_hpd, "table": _from_table}
    for where, row in rows:
        convert = converters[_columns_kind(row) if kind in ("hub", "table") else kind]
        try:
            found = convert(row, where, root)
        except BadRow as error:
            if on_bad_row is None:
                raise
            on_bad_row(error)
            continue
        if not found:
            counts.ties += 1
        for pair in found:
            counts.pairs += 1
            yield pair
            if settings.max_pairs and counts.pairs >= settings.max_pairs:
                return
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


def _default_root(source: str) -> Path:
    path = Path(source).expanduser()
    return path if path.is_dir() else path.parent


def _files(source: str, *suffixes: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in suffixes)
        if not files:
            raise UserError(f"data {source}: the folder holds no file ending in {', '.join(suffixes)}")
        return files
    if not path.is_file():
        raise UserError(f"data {source}: there is no such file or folder")
    return [path]


def _table_rows(source: str, split: str) -> Iterator[tuple[str, dict]]:
    for file in _files(source, ".jsonl", ".csv", ".parquet"):
        yield from {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}[file.suffix](file)


def _jsonl_rows(file: Path) -> Iterator[tuple[str, dict]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{file} line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                row = {"__broken__": f"{where}: not readable as JSON ({error})"}
            yield where, row if isinstance(row, dict) else {"__broken__": f"{where}: expected an object"}


def _csv_rows(file: Path) -> Iterator[tuple[str, dict]]:
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            yield f"{file} line {reader.line_num}", {k: v for k, v in row.items() if v not in ("", None)}


def _parquet_rows(file: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = itertools.count(1)
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield f"{file} row {next(number)}", row
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"data {file}: not a readable parquet file ({' '.join(str(error).split())[:120]})") from None


def _json_list_rows(source: str, split: str) -> Iterator[tuple[str, dict]]:
    for file in _files(source, ".json"):
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


_ROWS = {"table": _table_rows, "pickapic": _table_rows, "hpd": _json_list_rows, "hub": _hub_rows}


def _columns_kind(row: dict) -> str:
    return "pickapic" if "jpg_0" in row or "label_0" in row else "table"


def _take(row: dict, key: str, where: str) -> Any:
    if "__broken__" in row:
        raise BadRow(row["__broken__"])
    value = row.get(key)
    if value is None or value == "":
        raise BadRow(f"{where}: '{key}' is missing" + (nearest(key, row) if row else ""))
    return value


def _picture(value: Any, key: str, where: str, root: Path) -> Picture:
    if isinstance(value, dict):  # how `datasets` stores an Image column
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        from visalign.media import to_bytes

        return to_bytes(value)
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, str) and value:
        path = Path(value).expanduser()
        path = path if path.is_absolute() else root / path
        if not path.is_file():
            raise BadRow(f"{where}: '{key}' names {path}, which does not exist")
        return str(path)
    raise BadRow(f"{where}: '{key}' is neither a path nor image bytes")


def _prompt(row: dict, key: str, where: str) -> str:
    prompt = _take(row, key, where)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadRow(f"{where}: '{key}' is not text")
    return prompt


def _number(row: dict, key: str, where: str, default: float | None = None) -> float | None:
    value = row.get(key)
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"{where}: '{key}' is {value!r}, not a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise BadRow(f"{where}: '{key}' is {value!r}, not a finite number")
    return number


def _from_pickapic(row: dict, where: str, root: Path) -> list[Pair]:
    prompt = _prompt(row, "caption", where)
    label = _number(row, "label_0", where)
    if label not in (0, 0.5, 1):
        raise BadRow(f"{where}: 'label_0' is {row.get('label_0')!r} (allowed: 0, 0.5, 1)")
    if label == 0.5:
        return []
    pictures = [_picture(_take(row, key, where), key, where, root) for key in ("jpg_0", "jpg_1")]
    chosen, rejected = pictures if label == 1 else reversed(pictures)
    return [Pair(prompt, chosen, rejected, where)]


def _from_hpd(row: dict, where: str, root: Path) -> list[Pair]:
    """HPD v2: `human_preference` holds 1 for the preferred picture of two, or `rank` the place of each of several."""
    prompt = _prompt(row, "prompt", where)
    paths = _take(row, "image_path" if "image_path" in row else "image_paths", where)
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
            pairs.append(Pair(prompt, _picture(paths[chosen], "image_path", where, root),
                              _picture(paths[rejected], "image_path", where, root), where))
    return pairs


def _from_table(row: dict, where: str, root: Path) -> list[Pair]:
    prompt = _prompt(row, "prompt", where)
    if row.get("label") == "tie" or row.get("tie") in (True, "true", "True", 1):
        return []
    return [Pair(prompt, _picture(_take(row, "chosen", where), "chosen", where, root),
                 _picture(_take(row, "rejected", where), "rejected", where, root), where,
                 _number(row, "strength", where, 1.0), _number(row, "chosen_reward", where),
                 _number(row, "rejected_reward", where))]
