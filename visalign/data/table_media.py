"""Images and videos in parquet files, read when they are wanted.

What tells them apart is noted while a file is read for the first time, under the file's path, size, time of change and
footer: later starts read texts and numbers alone, however large the images are.
"""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visalign.data.readers import (
    MEDIA_BATCH,
    Rows,
    arrow_errors_told,
    checked,
    file_rows,
    open_parquet,
    refuse_placeholder,
    wanted_columns,
)
from visalign.errors import UserError
from visalign.media.fitting import Size
from visalign.media.image_files import upright_size
from visalign.storage.files import stamp_of

_VERSION = "1"
_ROWS = 1024
"""Rows without media that are read together."""
_HELD_BYTES, _HELD_BATCHES = 2**27, 64
"""Most of a file's media that stay in memory, for pairs of rows that are not side by side."""


@dataclass(frozen=True)
class TableMedia:
    """An image or video in a table, equal to another of the same bytes.

    digest: sha256 of its bytes. size: (height, width) of an image, None for what is none.
    """

    digest: str
    size: Size | None = field(compare=False)
    _table: "_Table" = field(compare=False, repr=False)
    _row: int = field(compare=False)
    _column: str = field(compare=False)

    def read(self) -> bytes:
        """Its bytes. Raises UserError where the table is not any more what it was."""
        import pyarrow as pa

        found = None
        with contextlib.suppress(pa.ArrowException, OSError, ValueError, LookupError, StopIteration):
            found = self._table.bytes_at(self._row, self._column)
        if hashlib.sha256(found or b"").hexdigest() != self.digest:
            raise UserError(f"data {self._table.file}: changed while it was read; start again")
        return found


def known_rows(file: Path, notes: Path) -> Rows:
    """The rows of a table as `file_rows` gives them, with TableMedia for bytes where they are known from an earlier
    time. notes: the folder of what is known. Raises UserError for what is no table."""
    refuse_placeholder(file)
    table = None
    if file.suffix.lower() == ".parquet":
        with arrow_errors_told(file, "parquet"):
            table = _Table(file)
    if table is None or not table.media:
        return file_rows(file)
    known = table.known(notes)
    return table.noted(notes) if known is None else table.rows(known)


class _Table:
    """A parquet file. media: its columns of bytes, as they are or as `datasets` stores them ({bytes, path})."""

    def __init__(self, file: Path):
        self.file = file
        self._parquet = open_parquet(file)
        self.schema = self._parquet.schema_arrow
        self.columns = wanted_columns(self.schema)
        media = [name for name in self.columns if _holds_bytes(self.schema.field(name).type)]
        self.media = media if len(media) < len(self.columns) else []
        self._coming: Iterator = iter(())
        self._group, self._next = -1, 0
        self._held: dict[int, Any] = {}  # batches by their first row, the newest last

    def _notes_in(self, folder: Path) -> Path:
        """The file of what is known of it, named by all that changes when it does."""
        with self.file.open("rb") as opened:
            opened.seek(-8, os.SEEK_END)
            length = int.from_bytes(opened.read(4), "little")
            opened.seek(-8 - length, os.SEEK_END)
            footer = hashlib.sha256(opened.read(length)).hexdigest()
        name = f"{_VERSION} {self.file.absolute()} {stamp_of(self.file)} {footer}"
        return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.parquet"

    def known(self, folder: Path):
        """An arrow table of what is known: by column {digest, height, width} of each row, null where it has no media;
        None where nothing is known."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            found = pq.read_table(self._notes_in(folder))
        except (pa.ArrowException, OSError):  # not there, or cut off
            return None
        return found if found.num_rows == self._parquet.metadata.num_rows else None

    def noted(self, folder: Path) -> Rows:
        """Its rows with bytes; what tells those from others is kept once all rows are read."""
        notes: dict[str, list] = {name: [] for name in self.media}
        for where, row in file_rows(self.file):
            for name in self.media:
                notes[name].append(_note_of(row.get(name)))
            yield where, row
        self._keep(notes, self._notes_in(folder))

    def _keep(self, notes: dict[str, list], path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kind = pa.struct([("digest", pa.binary(32)), ("height", pa.int32()), ("width", pa.int32())])
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")  # several processes write the same
        with contextlib.suppress(OSError):  # a full disk or a read-only folder: the next start reads all again
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({name: pa.array(each, kind) for name, each in notes.items()}), temporary,
                           compression="zstd")
            os.replace(temporary, path)

    def rows(self, known) -> Rows:
        """Its rows without reading bytes."""
        others, number = [leaf for name in self.columns for leaf in self._leaves(name)], 0
        with arrow_errors_told(self.file, "parquet"):
            for batch in self._parquet.iter_batches(batch_size=_ROWS, columns=others):
                notes = known.slice(number, len(batch)).to_pylist()
                for row, note in zip(batch.to_pylist(), notes, strict=True):
                    found = {name: self._value(name, row, note[name], number) if name in self.media else row[name]
                             for name in self.columns}
                    number += 1
                    where = f"{self.file} row {number}"
                    yield where, checked(where, found)

    def _leaves(self, name: str) -> list[str]:
        """What of a column is read, besides bytes."""
        kind = self.schema.field(name).type
        if name not in self.media:
            return [name]
        return [f"{name}.{each.name}" for each in map(kind.field, range(kind.num_fields)) if each.name != "bytes"]

    def _value(self, name: str, row: dict, note: dict | None, number: int) -> Any:
        """Of a column of media, as the row has it but for the bytes."""
        size = None if note is None or note["height"] is None else (note["height"], note["width"])
        media, others = note and TableMedia(note["digest"].hex(), size, self, number, name), row.get(name)
        if not self.schema.field(name).type.num_fields or media is None and others is None:
            return media
        return (others or {}) | {"bytes": media}

    def bytes_at(self, row: int, column: str) -> bytes | None:
        """Media of one row. Rows in their order cost as much as reading the file once."""
        first = next((start for start, batch in self._held.items() if start <= row < start + len(batch)), None)
        first = self._read_until(row) if first is None else first
        found = self._held[first][column][row - first].as_py()
        return found["bytes"] if isinstance(found, dict) else found

    def _read_until(self, row: int) -> int:
        """Read on in the row's group, from its start where the row was passed; the first row of the batch it is in."""
        group, first = 0, 0
        while row >= first + self._parquet.metadata.row_group(group).num_rows:
            first += self._parquet.metadata.row_group(group).num_rows
            group += 1
        if group != self._group or row < self._next:
            self._group, self._next = group, first
            self._coming = self._parquet.iter_batches(batch_size=MEDIA_BATCH, row_groups=[group], columns=self.media)
        while row >= self._next:
            first, batch = self._next, next(self._coming)
            self._next += len(batch)
            self._hold(first, batch)
        return first

    def _hold(self, first: int, batch) -> None:
        self._held.pop(first, None)
        self._held[first] = batch
        while len(self._held) > 1 and (len(self._held) > _HELD_BATCHES or
                                       sum(each.nbytes for each in self._held.values()) > _HELD_BYTES):
            del self._held[next(iter(self._held))]


def _holds_bytes(kind) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_bytes(kind.field("bytes").type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _note_of(value: Any) -> dict | None:
    value = value.get("bytes") if isinstance(value, dict) else value
    if not value:
        return None
    try:
        height, width = upright_size(value, "")
    except UserError:  # a video, or broken: whoever reads it says so
        height = width = None
    return {"digest": hashlib.sha256(value).digest(), "height": height, "width": width}
