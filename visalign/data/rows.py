"""Rows of tables (JSONL, CSV, parquet) and their fields; every error names the file and line."""

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from visalign.errors import UserError, nearest
from visalign.video import FRAMES_FILE

Picture = bytes | str
"""A picture or clip as stored: its bytes, or a path."""


class BadRow(UserError):
    """One row that cannot be used; `data check` lists them, training stops at the first."""


def default_root(source: str) -> Path:
    path = Path(source).expanduser()
    return path if path.is_dir() else path.parent


def table_files(source: str, *suffixes: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in suffixes)
        if not files:
            raise UserError(f"data {source}: the folder holds no file ending in {', '.join(suffixes)}")
        return files
    if not path.is_file():
        raise UserError(f"data {source}: there is no such file or folder")
    return [path]


def table_rows(source: str, split: str) -> Iterator[tuple[str, dict]]:
    for file in table_files(source, ".jsonl", ".csv", ".parquet"):
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


def take(row: dict, key: str, where: str) -> Any:
    if "__broken__" in row:
        raise BadRow(row["__broken__"])
    value = row.get(key)
    if value is None or value == "":
        raise BadRow(f"{where}: '{key}' is missing" + (nearest(key, row) if row else ""))
    return value


def picture(value: Any, key: str, where: str, root: Path) -> Picture:
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
        if not path.is_file() and not (path / FRAMES_FILE).is_file():
            raise BadRow(f"{where}: '{key}' names {path}, which does not exist")
        return str(path)
    raise BadRow(f"{where}: '{key}' is neither a path nor the bytes of a picture or clip")


def row_number(row: dict, key: str, where: str, default: float | None = None) -> float | None:
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


def row_prompt(row: dict, key: str, where: str) -> str:
    prompt = take(row, key, where)
    if not isinstance(prompt, str) or not prompt.strip():
        raise BadRow(f"{where}: '{key}' is not text")
    return prompt
