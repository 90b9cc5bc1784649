"""Rows of one table, as other programs write it: JSONL, a JSON list, CSV of any dialect, parquet, arrow.

A reader gives (where, row); a row that cannot be used is {BROKEN_TABLE: a sentence}, so that it can be named and the
others read. Only what makes a file unreadable as a whole raises UserError.
"""

import contextlib
import csv
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from visalign.errors import UserError
from visalign.storage.text_files import is_whole, open_text, read_text

BROKEN_TABLE = "__broken__"
Rows = Iterator[tuple[str, Any]]


def file_rows(file: Path) -> Iterator[tuple[str, dict]]:
    """Every row of a table, by its suffix (see READERS). Raises UserError when the file is not a table."""
    refuse_placeholder(file)
    for where, row in READERS[file.suffix.lower()](file):
        yield where, checked(where, row)


def refuse_placeholder(file: Path) -> None:
    """Raise UserError for what a failed download left in place of the file."""
    try:
        with file.open("rb") as opened:
            head = opened.read(100).lstrip().lower()
    except OSError as error:
        raise UserError(f"data {file}: cannot be read ({error.strerror})") from None
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"data {file}: is a pointer of Git LFS, not the file itself; `git lfs pull` gets it")
    if head.startswith((b"<!doctype", b"<html")):
        raise UserError(f"data {file}: is a web page, not a table; download the file itself")


def checked(where: str, row: Any) -> dict:
    """The row, or a broken one where it is not an object or holds text that cannot be encoded."""
    if not isinstance(row, dict):
        return {BROKEN_TABLE: f"{where}: expected an object of named fields, found {type(row).__name__}"}
    for name, value in row.items():
        if not all(map(is_whole, _texts([name, value]))):
            return {BROKEN_TABLE: f"{where}: '{name.encode('ascii', 'replace').decode()}' holds half of a character "
                            "(a lone surrogate), a stray byte or a NUL"}
    return row


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, at any depth; without recursion, which deep JSON would exhaust."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, list | tuple):
            left += each
        elif isinstance(each, dict):
            left += [*each.keys(), *each.values()]


def _fields(pairs: list[tuple[str, Any]]) -> dict:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' is given twice")
    return fields


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for too deep nesting or a field named twice."""
    try:
        return json.loads(text, object_pairs_hook=_fields)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _json_lines(file: Path) -> Rows:
    with open_text(file, f"data {file}") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{file} line {number}"
            if line.strip():
                try:
                    yield where, parse_json(line)
                except ValueError as error:
                    yield where, {BROKEN_TABLE: f"{where}: not readable as JSON ({error})"}


def _jsonl(file: Path) -> Rows:
    with open_text(file, f"data {file}") as lines:
        first = next((line for line in lines if line.strip()), "")
    return _json(file) if first.lstrip().startswith("[") else _json_lines(file)


def _json(file: Path) -> Rows:
    """The objects of a list (or of {"data": a list}); or one object per line, which is often named .json too."""
    for number, row in enumerate(json_list(file), 1):
        yield f"{file} entry {number}", row


def json_list(file: Path) -> list:
    """The entries of a JSON file: of its list, of the one list in it, its lines, or itself."""
    text = read_text(file, f"data {file}")
    try:
        value = parse_json(text)
    except ValueError as error:
        first = next((line for line in text.split("\n") if line.strip()), "")
        if not _is_object(first):
            raise UserError(f"data {file}: not readable as JSON ({str(error)[:200]})") from None
        return [row for _, row in _json_lines(file)]
    lists = [each for each in value.values() if isinstance(each, list)] if isinstance(value, dict) else [value]
    if len(lists) == 1 and isinstance(lists[0], list) and (not isinstance(value, dict) or len(value) == 1):
        return lists[0]
    if not isinstance(value, dict):
        raise UserError(f"data {file}: expected a JSON list of objects, found {type(value).__name__}")
    return [value]


def _is_object(line: str) -> bool:
    try:
        return isinstance(parse_json(line), dict)
    except ValueError:
        return False


def _csv(file: Path) -> Rows:
    """Fields separated as in the header: by comma, semicolon (Excel in Europe), tab or bar."""
    csv.field_size_limit(2**31 - 1)  # images as text are longer than the default allows
    with open_text(file, f"data {file}") as lines:
        first, before = lines.readline(), 0
        if first.lower().startswith("sep=") and len(first.strip()) == 5:  # Excel's own note
            separator, first, before = first[4], lines.readline(), 1
        else:
            separator = max(",;\t|", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
        reader = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True,
                            skipinitialspace=f"{separator} " in first)
        header: list[str] | None = None
        while True:
            where = f"{file} line {reader.line_num + before + 1}"
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None:
                    raise UserError(f"{where}: not readable as CSV ({error})") from None
                yield where, {BROKEN_TABLE: f"{where}: not readable as CSV ({error}); a field that holds a "
                                      'quotation mark is written with it doubled, between "'}
                continue
            if not any(fields):
                continue
            if header is None:
                header = _header(file, fields)
            else:
                yield where, _named(where, header, fields)


def _header(file: Path, fields: list[str]) -> list[str]:
    names = [name.strip() for name in fields]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice:
        raise UserError(f"data {file}: has two columns named '{twice}'")
    return names


def _named(where: str, header: list[str], fields: list[str]) -> dict:
    if any(fields[len(header):]):
        return {BROKEN_TABLE: f"{where}: has {len(fields)} fields, the header {len(header)}; a field that holds the "
                        'separator is written between "'}
    return {name: value for name, value in zip(header, fields, strict=False) if name and value != ""}


_PIECE = 2**20
"""Bytes of a column that are read at a time."""
MEDIA_BATCH = 64
"""Rows whose images or videos are in memory together."""


def open_parquet(file: Path):
    """The file, of which batches of rows are read without holding whole row groups twice. Raises what arrow raises."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(file, buffer_size=_PIECE, pre_buffer=False)


def _parquet(file: Path) -> Rows:
    return _arrow_rows(file, "parquet", lambda: _parquet_batches(open_parquet(file)))


def _parquet_batches(table):
    return table.iter_batches(batch_size=MEDIA_BATCH, columns=wanted_columns(table.schema_arrow))


def _arrow(file: Path) -> Rows:
    import pyarrow as pa

    def batches():
        with pa.memory_map(str(file)) as source:
            try:
                reader = pa.ipc.open_stream(source)
            except pa.ArrowInvalid:
                reader = pa.ipc.open_file(source)
                reader = (reader.get_batch(number) for number in range(reader.num_record_batches))
            for batch in reader:
                batch = batch.select(wanted_columns(batch.schema))
                yield from (batch.slice(start, MEDIA_BATCH) for start in range(0, len(batch), MEDIA_BATCH))

    return _arrow_rows(file, "arrow", batches)


def wanted_columns(schema) -> list[str]:
    """Columns without dates and times, which no reader needs and Python cannot always represent (nanoseconds)."""
    import pyarrow as pa

    return [field.name for field in schema if not pa.types.is_temporal(field.type)]


def _arrow_rows(file: Path, kind: str, batches: Callable) -> Rows:
    number = itertools.count(1)
    with arrow_errors_told(file, kind):
        for batch in batches():
            for row in batch.to_pylist():
                yield f"{file} row {next(number)}", row


@contextlib.contextmanager
def arrow_errors_told(file: Path, kind: str) -> Iterator[None]:
    """Turns what arrow's readers raise for broken files into UserError."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        raise UserError(f"data {file}: not a readable {kind} file ({' '.join(str(error).split())[:120]})") from None


READERS: dict[str, Callable[[Path], Rows]] = {
    ".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet,
    ".arrow": _arrow}
"""By the file's suffix in lower case."""
