"""Tensors by key in a few large files: shards of .safetensors, each written whole by one process and never changed.

A shard's header is its index, so that nothing beside the files can disagree with them. Processes and runs may share a
folder: each writes shards of its own under a temporary name and renames them, and one that is killed loses only what it
had not written yet. Every entry has a checksum; a damaged shard is set aside, and its entries are missing again.
"""

import contextlib
import json
import math
import os
import random
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from visalign.errors import notice
from visalign.storage.weights import write_tensors

SHARD_BYTES = 2**28
SHARD_ENTRIES = 8192
SHARD_SECONDS = 120.0
"""A process writes what it holds as a shard at this size or number, and at about this age."""

_PATTERN, _DAMAGED = "shard-*.safetensors", ".damaged"
_MARK = {"visalign": "shard 1"}
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
           "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}
_ABANDONED_SECONDS = 3600
_LONGEST_HEADER = 100_000_000  # of the format

Tensors = dict[str, Tensor]
EntryLayout = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""Name, type and shape of each of an entry's tensors; shared by all entries that are alike."""


class NotOurs(Exception):
    """A file that another program wrote."""


@dataclass(frozen=True)
class Shard:
    """A file, and where its tensors begin."""

    path: Path
    start: int
    size: int

    @cached_property
    def content(self) -> Tensor:
        """uint8 [size], mapped from the file: read when it is used, and without keeping a file open."""
        return torch.from_file(str(self.path), shared=False, size=self.size, dtype=torch.uint8)

    def bytes_at(self, begin: int, count: int) -> Tensor:
        return self.content[self.start + begin:self.start + begin + count]


@dataclass(frozen=True, slots=True)
class EntryPlace:
    """Where an entry is. begins: of its tensors, in the order of `layout`."""

    shard: Shard
    layout: EntryLayout
    begins: tuple[int, ...]
    checksum: int

    def read(self) -> Tensors | None:
        """The tensors, on the file's own pages; None where they are not what was written."""
        found, checksum = {}, 0
        for (name, dtype, shape), begin in zip(self.layout, self.begins, strict=True):
            raw = self.shard.bytes_at(begin, math.prod(shape) * dtype.itemsize)
            checksum = zlib.crc32(raw.numpy(), checksum)
            found[name] = raw.view(dtype).view(shape)
        return found if checksum == self.checksum else None


class ShardStore:
    """Entries by key, and notes: short texts by a name of their own.

    What is put can be read at once, and by others once it is flushed and they `refresh`. Raises OSError when the
    folder cannot be read or written.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._places: dict[str, EntryPlace] = {}
        self._notes: dict[str, str] = {}
        self._seen: set[str] = set()
        self._layouts: dict[EntryLayout, EntryLayout] = {}
        self._lock = threading.Lock()
        self._writer = _Writer(folder)
        weakref.finalize(self, self._writer.flush_if_possible)
        _remove_unfinished(folder)
        self.refresh()

    def __contains__(self, key: str) -> bool:
        return key in self._places or key in self._writer.entries

    def __len__(self) -> int:
        return len(self._places.keys() | self._writer.entries.keys())

    def get(self, key: str) -> Tensors | None:
        """An entry's tensors; None where there is none, or it is damaged."""
        held = self._writer.entries.get(key)
        place = self._places.get(key)
        if held is not None or place is None:
            return held
        with contextlib.suppress(OSError, RuntimeError):  # torch has no error of its own for a file that is gone
            entry = place.read()
            if entry is not None:
                return entry
        self._set_aside(place.shard.path, "is damaged")
        return None

    def put(self, key: str, entry: Tensors) -> None:
        self._writer.put(key, entry)
        if self._writer.is_due():
            self.flush()

    def note(self, name: str, text: str) -> None:
        """Keep a text; the last one of a name counts."""
        if self.noted(name) != text:
            self._writer.notes[name] = text

    def noted(self, name: str) -> str | None:
        return self._writer.notes.get(name, self._notes.get(name))

    def flush(self) -> None:
        """Write what is held, and what no other process wrote meanwhile, as a shard."""
        if not self._writer.is_empty():
            self.refresh()
        path = self._writer.flush(self._places)
        if path:
            self._index(path)

    def refresh(self) -> None:
        """Find the shards that others wrote."""
        for path in sorted(self.folder.glob(_PATTERN)):
            if path.name not in self._seen:
                self._index(path)

    def _index(self, path: Path) -> None:
        self._seen.add(path.name)
        try:
            start, header = _read_header(path)
            self._add(path, start, header)
        except NotOurs:
            notice(f"{path} is not a file of this cache and is not read")
        except (ValueError, KeyError, TypeError):
            self._set_aside(path, "is cut off or damaged")

    def _add(self, path: Path, start: int, header: dict) -> None:
        told = header.pop("__metadata__")
        shard, checksums = Shard(path, start, path.stat().st_size), json.loads(told["checksums"])
        parts: dict[str, list[tuple[str, dict]]] = {}
        for name in sorted(header):
            key, _, part = name.partition("/")
            parts.setdefault(key, []).append((part, header[name]))
        for key, tensors in parts.items():
            layout = tuple((part, _DTYPES[each["dtype"]], tuple(each["shape"])) for part, each in tensors)
            self._places[key] = EntryPlace(shard, self._layouts.setdefault(layout, layout),
                                      tuple(each["data_offsets"][0] for _, each in tensors), checksums[key])
        self._notes |= json.loads(told["notes"])

    def _set_aside(self, path: Path, why: str) -> None:
        """A damaged file keeps its content under another name, and is not read again."""
        with self._lock:
            lost = [key for key, place in self._places.items() if place.shard.path == path]
            for key in lost:
                del self._places[key]
        with contextlib.suppress(OSError):  # another process was faster, or the folder is read-only
            os.replace(path, path.with_name(path.name + _DAMAGED))
        notice(f"{path} {why}; what it held is computed again (it was renamed to {path.name}{_DAMAGED})")


class _Writer:
    """What a process has not written yet."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._clear()

    def _clear(self) -> None:
        self.entries: dict[str, Tensors] = {}
        self.notes: dict[str, str] = {}
        self.size, self.since = 0, time.monotonic()
        self.patience = SHARD_SECONDS * random.uniform(1, 2)  # processes that put the same do not all write it

    def is_empty(self) -> bool:
        return not self.entries and not self.notes

    def put(self, key: str, entry: Tensors) -> None:
        self.since = self.since if self.entries else time.monotonic()
        self.entries[key] = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(entry.items())}
        self.size += sum(tensor.nbytes for tensor in self.entries[key].values())

    def is_due(self) -> bool:
        return self.size >= SHARD_BYTES or len(self.entries) >= SHARD_ENTRIES or \
            time.monotonic() - self.since >= self.patience

    def flush(self, there: Container[str] = ()) -> Path | None:
        """Write a shard without the entries that are there, and forget all; None where there is nothing to write."""
        self.entries = {key: entry for key, entry in self.entries.items() if key not in there}
        if self.is_empty():
            self._clear()
            return None
        path = self.folder / _PATTERN.replace("*", uuid.uuid4().hex[:16])
        checksums = {key: _checksum(entry.values()) for key, entry in self.entries.items()}
        tensors = {f"{key}/{name}": tensor for key, entry in self.entries.items() for name, tensor in entry.items()}
        write_tensors(path, tensors, _MARK | {"checksums": json.dumps(checksums), "notes": json.dumps(self.notes)})
        self._clear()
        return path

    def flush_if_possible(self) -> None:
        """At the end of a process, where a full disk or a folder that is gone only means computing it again."""
        with contextlib.suppress(OSError):
            self.flush()


def _remove_unfinished(folder: Path) -> None:
    """What killed processes left; none writes a shard for an hour."""
    for path in folder.glob(f".tmp-*-{_PATTERN}"):
        with contextlib.suppress(OSError):  # its writer has just renamed it, or the folder is read-only
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def _checksum(tensors: Iterable[Tensor]) -> int:
    found = 0
    for tensor in tensors:
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), found)
    return found


def _read_header(path: Path) -> tuple[int, dict]:
    """Where a shard's tensors begin, and its header. Raises NotOurs, or ValueError where the file is not whole."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= _LONGEST_HEADER else b""
    if text[:1] != b"{":
        raise ValueError("no header")
    header = json.loads(text)
    told = header.get("__metadata__") or {}
    if not told.items() >= _MARK.items():
        raise NotOurs
    ends = [each["data_offsets"][1] for name, each in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != path.stat().st_size:
        raise ValueError("another size than its header says")
    return 8 + length, header
