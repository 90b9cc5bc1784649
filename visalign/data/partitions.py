"""A source cut into partitions that are known before any of them is read, so that workers and restarts agree on them.

    a shard           each .tar, and each row group of a .parquet
    a folder at a URL so many files, in the order of their names
    anything else     so many generations of what `find_generations` lists
"""

import hashlib
import json
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from visalign.config.sources import PromptsFrom
from visalign.data.chunks import gathered, kept_together
from visalign.data.entry import Entry
from visalign.data.folder import SIDECARS
from visalign.data.generations import LISTS, find_generations
from visalign.data.packed import entries_at, entries_of_group, entries_of_tar, groups_of_table, is_media_name
from visalign.errors import UserError
from visalign.storage.locations import Location
from visalign.storage.text_files import printable

TABLE, ARCHIVE = ".parquet", ".tar"
_AT_ONCE = 16
"""Tables whose footers are read together."""


@dataclass(frozen=True)
class ListedPart:
    """Generations that were listed one by one, files on a disk that all workers see; by whole paths."""

    listed: list[Entry]
    folder: str

    def name(self) -> str:
        return _digest([(entry.path, entry.group) for entry in self.listed])

    def stamp(self) -> str:
        return _digest([entry.stamp() for entry in self.listed])

    def entries(self) -> Iterator[Entry]:
        """Raises UserError on a machine that does not see them: they are not to be taken for unreadable."""
        if not os.path.exists(self.folder):
            raise UserError(f"input {printable(self.folder)}: the machine {socket.gethostname()} does not see it; with "
                            "--engine ray it lies on a disk that all machines share, or at a URL")
        yield from self.listed


@dataclass(frozen=True)
class ArchivePart:
    """A .tar."""

    archive: Location
    changes_with: str
    prompts_from: PromptsFrom

    def name(self) -> str:
        return str(self.archive)

    def stamp(self) -> str:
        return self.changes_with

    def entries(self) -> Iterator[Entry]:
        return entries_of_tar(self.archive, self.prompts_from)


@dataclass(frozen=True)
class TablePart:
    """A row group of a .parquet."""

    table: Location
    changes_with: str
    group: int
    first: int
    root: str | None

    def name(self) -> str:
        return f"{self.table} {self.group}"

    def stamp(self) -> str:
        return self.changes_with

    def entries(self) -> Iterator[Entry]:
        return entries_of_group(self.table, self.group, self.first, self.root)


@dataclass(frozen=True)
class RemotePart:
    """Files of a folder at a URL. files, sidecars: what changes when they do, by name."""

    folder: Location
    files: dict[str, str]
    sidecars: dict[str, str]
    prompts_from: PromptsFrom

    def name(self) -> str:
        return _digest(list(self.files))

    def stamp(self) -> str:
        return _digest([self.files, self.sidecars])

    def entries(self) -> Iterator[Entry]:
        return entries_at(self.folder, self.files, self.sidecars, self.prompts_from)


Part = ListedPart | ArchivePart | TablePart | RemotePart


@dataclass(frozen=True)
class Parts:
    """All of a source, in order. kinds: what they are, in words; notes: a sentence each for what was left out."""

    each: Sequence[Part]
    kinds: str
    notes: tuple[str, ...] = ()
    hint: str = ""

    def name(self) -> str:
        """What identifies the list, apart from the files' contents."""
        return _digest([part.name() for part in self.each])


def partitions_of(source: str, size: int, prompts_from: PromptsFrom = "auto", media_root: str | None = None,
                  grouped: bool = False) -> Parts:
    """Cut a source; size: generations in a partition, where the source does not say. grouped: those of a prompt stay
    together.

    Raises UserError where there is nothing to read, or prompts cannot be kept together.
    """
    place = Location(source)
    shards = shards_at(place)
    if shards and grouped:
        raise UserError(f"input {place}: a reward that compares within a prompt needs a folder or a manifest; the "
                        "generations of a prompt may lie in several shards")
    if shards:
        return _of_shards(shards, prompts_from, media_root)
    if place.is_url and not place.is_local:
        return _of_folder(place, size, prompts_from, grouped)
    found = find_generations(place.path if place.is_url else source, prompts_from, media_root)
    found[:] = [replace(entry, file=entry.file.absolute(), sources=tuple(file.absolute() for file in entry.sources))
                for entry in found]
    rows = gathered(kept_together(found, grouped), size, lambda _: 1)
    kinds = Counter(entry.file.suffix.lower() or "folders of frames" for entry in found)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    each = [ListedPart([found[i] for i in row], place.path) for row in rows]
    return Parts(each, named, found.notes, found.prompt_hint)


def shards_at(place: Location) -> dict[Location, str]:
    """The .tar and .parquet files that a source is or consists of, in order, with what changes when they do."""
    if place.given.lower().endswith((TABLE, ARCHIVE)) and not place.is_folder():
        if not place.exists():
            raise UserError(f"input {place}: there is no such file")
        return {place: place.stamp()}
    names = place.names()
    if any(map(is_media_name, names)) or not place.is_url and ("config.yaml" in names or names.keys() & set(LISTS)):
        return {}
    return {place.child(name): stamp for name, stamp in names.items()
            if Path(name).suffix.lower() in (TABLE, ARCHIVE) and not name.startswith(".")}


def _of_shards(shards: dict[Location, str], prompts_from: PromptsFrom, media_root: str | None) -> Parts:
    tables = [shard for shard in shards if shard.given.lower().endswith(TABLE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        groups = dict(zip(map(str, tables), pool.map(groups_of_table, tables), strict=True))
    each: list[Part] = []
    for shard, stamp in shards.items():
        rows = groups.get(str(shard))
        if rows is None:
            each.append(ArchivePart(shard, stamp, prompts_from))
        else:
            firsts = [0, *accumulate(rows)]
            each += [TablePart(shard, stamp, number, firsts[number], media_root)
                     for number, count in enumerate(rows) if count]
    if not each:
        raise UserError(f"input {next(iter(shards))}: holds no row")
    kinds = [f"{count} {kind}" for count, kind in ((len(tables), TABLE), (len(shards) - len(tables), ARCHIVE)) if count]
    return Parts(each, f"{' and '.join(kinds)} in {len(each)} partitions")


def _of_folder(place: Location, size: int, prompts_from: PromptsFrom, grouped: bool) -> Parts:
    if grouped:
        raise UserError(f"input {place}: a reward that compares within a prompt needs a folder or a manifest on a "
                        "disk, where all prompts are known beforehand")
    found = place.tree()
    media = [name for name in found if is_media_name(name)]
    if not media:
        raise UserError(f"input {place}: holds no image, no video, no {ARCHIVE} and no {TABLE}; other manifests are "
                        "read from a disk")
    beside = {name: stamp for name, stamp in found.items() if Path(name).suffix.lower() in SIDECARS}
    each = []
    for start in range(0, len(media), size):
        some = {name: found[name] for name in media[start:start + size]}
        texts = sorted({str(Path(name).with_suffix(suffix)) for name in some for suffix in SIDECARS} & beside.keys())
        each.append(RemotePart(place, some, {text: beside[text] for text in texts}, prompts_from))
    kinds = Counter(Path(name).suffix.lower() for name in media)
    return Parts(each, ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))


def texts_digest(texts: Iterable[str]) -> str:
    """A hash of texts in their order."""
    return _digest(list(texts))


def _digest(what) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
