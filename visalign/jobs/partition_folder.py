"""What a command makes of many partitions: a folder, or a URL, with one parquet file for each, exactly once.

    manifest.json               the settings, and how many partitions there are
    part-000012-5f0e9a....parquet
    summary.json                when all are there

A partition's name holds a digest of what it was made of. One listing therefore says which are missing after a kill, and
which were made of files that have changed since; two workers that make the same partition write the same file.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.errors import UserError
from visalign.storage.locations import UNFINISHED, Location

_AHEAD = 16
_OWN = re.compile(rf"({UNFINISHED})?part-\d{{6,}}-[0-9a-f]{{16}}\.parquet")
MANIFEST, SUMMARY = "manifest.json", "summary.json"


class PartitionFolder:
    """settings: what all partitions were made with, as JSON. names: of the partitions' files, in order."""

    def __init__(self, out: Location, settings: dict, stamps: list[str]):
        self.out, self.settings = out, settings
        known = json.dumps(settings, sort_keys=True)
        self.names = [f"part-{number:06d}-{hashlib.sha256(f'{known} {stamp}'.encode()).hexdigest()[:16]}.parquet"
                      for number, stamp in enumerate(stamps)]

    def open(self, again: bool = False) -> list[int]:
        """The numbers of the partitions that are missing; files of changed ones are removed.

        again: whether it may be complete. Raises UserError when it is, or holds what other settings made.
        """
        there = self.out.names()
        if MANIFEST in there:
            self._check(json.loads(self.out.child(MANIFEST).read()))
        elif any(name.endswith(".parquet") for name in there):
            raise UserError(f"out {self.out}: holds .parquet files of something else; choose another folder")
        if SUMMARY in there and not again:
            raise UserError(f"out {self.out}: is complete; choose another folder or delete it")
        for name in there.keys() - set(self.names):
            if MANIFEST in there and _OWN.fullmatch(name):
                self.out.child(name).remove()
        self.out.make_folder()
        manifest = {"settings": self.settings, "partitions": len(self.names)}
        self.out.child(MANIFEST).write(json.dumps(manifest, indent=1).encode())
        return [number for number, name in enumerate(self.names) if name not in there]

    def _check(self, found: dict) -> None:
        before = found.get("settings", {})
        other = [name for name in self.settings if before.get(name) != self.settings[name]]
        if other:
            raise UserError(f"out {self.out}: holds what was made with other settings ({', '.join(other)}); finish "
                            "that command, delete the folder, or choose another")

    def has(self, number: int) -> bool:
        return self.out.child(self.names[number]).exists()

    def write(self, number: int, groups: list[pa.Table]) -> None:
        """groups: tables of one schema, each a row group of its own."""
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, groups[0].schema, compression="zstd") as writer:
            for table in groups:
                writer.write_table(table, row_group_size=max(1, len(table)))
        self.out.child(self.names[number]).write(sink.getvalue().to_pybytes())

    def read(self, number: int, columns: list[str] | None = None, group: int | None = None) -> pa.Table:
        """One partition, or a row group of it; of `columns` those that it has."""
        with self.out.child(self.names[number]).open() as data:
            file = pq.ParquetFile(data)
            known = None if columns is None else [name for name in columns if name in file.schema_arrow.names]
            return file.read(columns=known) if group is None else file.read_row_group(group, columns=known)

    def remove(self, number: int) -> None:
        self.out.child(self.names[number]).remove()

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """All partitions, one after another; a few are read ahead, since a store is slow to answer."""
        with ThreadPoolExecutor(_AHEAD) as pool:
            for start in range(0, len(self.names), _AHEAD):
                numbers = range(start, min(start + _AHEAD, len(self.names)))
                yield from pool.map(lambda number: self.read(number, columns), numbers)

    def close(self, summary: dict) -> None:
        """Say that all are there."""
        self.out.child(SUMMARY).write((json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode())
