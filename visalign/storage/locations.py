"""Files and folders on a local disk or at any URL that fsspec knows: s3://, gs://, memory://, file:// and others.

What is written is there whole or not at all: by renaming, or by the one request with which an object store takes it.
"""

import contextlib
import hashlib
import os
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from typing import IO, Any

from visalign.errors import UserError
from visalign.storage.files import write_atomically
from visalign.storage.text_files import printable

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_AT_ONCE = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci", "memory"))
"""Stores in which an object appears when all of it has arrived."""
_CHANGES_WITH = ("size", "ETag", "etag", "md5Hash", "crc32c", "mtime", "LastModified", "last_modified", "updated",
                 "created")
UNFINISHED = ".tmp-"
"""How the names of files begin that are not whole yet."""


def is_url(text: str | os.PathLike) -> bool:
    return _URL.match(os.fspath(text)) is not None


class Location:
    """A file or folder, as it was given: a path or a URL.

    Methods raise OSError for a local disk, and UserError for what is elsewhere.
    """

    def __init__(self, given: str | os.PathLike):
        self.given = os.fspath(given)
        self.is_url = is_url(self.given)

    def __str__(self) -> str:
        return printable(self.given)

    def __getstate__(self) -> str:
        return self.given if self.is_url else self.path

    def __setstate__(self, given: str) -> None:
        Location.__init__(self, given)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """fsspec's file system, and the path there. Raises UserError for a URL of an unknown kind."""
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        if not self.is_url:
            return LocalFileSystem(), os.path.abspath(os.path.expanduser(self.given))
        try:
            return fsspec.core.url_to_fs(self.given)
        except ImportError as error:
            package = re.search(r"[Ii]nstall (\S+)", str(error))
            raise UserError(f"{self}: needs the package {package[1] if package else 'that fsspec names'} "
                            f"({printable(str(error))})") from None
        except ValueError as error:
            raise UserError(f"{self}: {printable(str(error))}") from None

    @property
    def is_local(self) -> bool:
        from fsspec.implementations.local import LocalFileSystem

        return isinstance(self._opened[0], LocalFileSystem)

    @property
    def path(self) -> str:
        """Of a local file: its absolute path; elsewhere the path as the store names it."""
        return self._opened[1]

    @property
    def name(self) -> str:
        return posixpath.basename(self.path.rstrip("/"))

    def child(self, name: str) -> "Location":
        return Location(f"{self.given.rstrip('/')}/{name}" if self.given.strip("/") else f"{self.given}{name}")

    def parent(self) -> "Location":
        return Location(posixpath.dirname(self.given.rstrip("/")) or ".")

    @contextlib.contextmanager
    def _told(self) -> Iterator[Any]:
        """fsspec's file system; what a remote store raises becomes a sentence."""
        files = self._opened[0]
        try:
            yield files
        except UserError:
            raise
        except Exception as error:  # each store has errors of its own
            if self.is_local:
                raise
            raise UserError(f"{self}: {type(error).__name__}: {printable(' '.join(str(error).split())[:200])}"
                            ) from None

    def is_folder(self) -> bool:
        with self._told() as files:
            return files.isdir(self.path)

    def exists(self) -> bool:
        with self._told() as files:
            files.invalidate_cache()
            return files.exists(self.path)

    def names(self) -> dict[str, str]:
        """Files directly in the folder, in order, with what changes when they do; none where there is no folder."""
        with self._told() as files:
            files.invalidate_cache()
            try:
                found = files.ls(self.path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {posixpath.basename(each["name"].rstrip("/")): _stamp(each)
                for each in sorted(found, key=lambda each: each["name"]) if each["type"] == "file"}

    def tree(self) -> dict[str, str]:
        """All files below the folder by relative path, in order, as `names` gives them."""
        with self._told() as files:
            found = files.find(self.path, detail=True)
        start = len(self.path.rstrip("/")) + 1
        return {name[start:]: _stamp(each) for name, each in sorted(found.items())}

    def stamp(self) -> str:
        """What changes when the file does."""
        with self._told() as files:
            return _stamp(files.info(self.path))

    def size(self) -> int:
        """Bytes of the file."""
        with self._told() as files:
            return files.size(self.path)

    def read(self) -> bytes:
        with self._told() as files:
            return files.cat_file(self.path)

    def read_all(self, names: list[str]) -> dict[str, bytes | Exception]:
        """Files of the folder by name, asked for together; an exception for one that cannot be read."""
        with self._told() as files:
            paths = {f"{self.path.rstrip('/')}/{name}": name for name in names}
            found = files.cat(list(paths), on_error="return") if paths else {}
            return {name: found[path] for path, name in paths.items()}

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The file for reading, a block at a time."""
        with self._told() as files:
            opened = files.open(self.path, "rb", block_size=2**20)
        with opened:
            yield opened

    def make_folder(self) -> None:
        if self.is_local:
            os.makedirs(self.path, exist_ok=True)

    def write(self, data: bytes) -> None:
        """Put a file there, whole."""
        from pathlib import Path

        if self.is_local:
            return write_atomically(Path(self.path), data)
        with self._told() as files:
            if _AT_ONCE & ({files.protocol} if isinstance(files.protocol, str) else set(files.protocol)):
                return files.pipe_file(self.path, data)
            before = f"{posixpath.dirname(self.path)}/{UNFINISHED}{self.name}"
            files.makedirs(posixpath.dirname(self.path), exist_ok=True)
            files.pipe_file(before, data)
            files.mv(before, self.path)

    def remove(self) -> None:
        with self._told() as files:
            files.rm_file(self.path)


def _stamp(info: dict) -> str:
    known = [f"{name}={info[name]}" for name in _CHANGES_WITH if info.get(name) is not None]
    return hashlib.sha256(" ".join(known).encode()).hexdigest()[:16]
