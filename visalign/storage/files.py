"""Files written atomically, and what is said when the disk is full."""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visalign.errors import UserError
from visalign.storage.text_files import printable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SAID = ("no space left", "disk quota", "file too large", "disk is full", "os error 28", "os error 122", "os error 27")
_NOTHING_LEFT = 2**20


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: it is the old or the new one, also after a power loss; no temporary file stays."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # the system names no file when the disk is full
        raise


def stamp_of(file: Path) -> str:
    """The size and time of change of a file, or of all files of a folder. Raises OSError where there is none."""
    files = sorted(file.iterdir()) if file.is_dir() else [file]
    return " ".join(f"{stat.st_size}-{stat.st_mtime_ns}" for stat in map(Path.stat, files))


def copy_atomically(source: Path, place: Path) -> None:
    """Copy a file or a folder atomically."""
    temporary = place.with_name(f".tmp-{place.name}")
    if source.is_file():
        return write_atomically(place, source.read_bytes())
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary)
        os.replace(temporary, place)
    except shutil.Error as error:  # a list of what went wrong
        shutil.rmtree(temporary, ignore_errors=True)
        reasons = error.args[0]
        full = is_full(OSError(str(reasons)), place)
        raise OSError(errno.ENOSPC if full else errno.EIO, os.strerror(errno.ENOSPC) if full else str(reasons)[:200],
                      str(place)) from None


def written(file: Path) -> Any:
    """The JSON in a file that an earlier command wrote; None where there is none, or anything else."""
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network folders cannot be synced
            raise
    finally:
        os.close(handle)


def free_space(path: Path) -> int:
    """Bytes that may still be written at `path`, which need not exist yet."""
    path = path.expanduser().absolute()
    usage = shutil.disk_usage(next(p for p in (path, *path.parents) if p.exists()))
    return usage.free if usage.total else sys.maxsize  # not a real disk, so nothing is counted


def is_full(error: BaseException, path: Path) -> bool:
    """Whether `error`, met while writing at `path`, means a full disk: each library reports it differently."""
    if getattr(error, "errno", None) in _FULL or any(words in str(error).lower() for words in _SAID):
        return True
    return isinstance(error, RuntimeError) and free_space(path) < _NOTHING_LEFT  # torch hides the system's reason


def refusal(error: OSError) -> str:
    """What the system refused, as a sentence; for a full disk, also what to do."""
    place = error.filename2 or error.filename
    named = f" {printable(os.fsdecode(place))}" if isinstance(place, str | bytes) else ""
    if isinstance(place, str | bytes) and is_full(error, Path(os.fsdecode(place))):
        return (f"the system refused{named}: the disk is full; nothing that was written before is lost, so free some "
                "space and give the same command again")
    return f"the system refused{named}: {error.strerror or error}"


@contextlib.contextmanager
def full_disk_told(what: str, path: Path, advice: str = "the same command continues") -> Iterator[None]:
    """Within this context a full disk ends in one sentence that begins with `what` and ends with `advice`.

    Raises UserError.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_full(error, path):
            raise
        raise UserError(f"{what}: the disk is full ({size_in_words(free_space(path))} free); free some space, and "
                        f"{advice}") from None


def check_space(what: str, path: Path, needed: int, advice: str) -> None:
    """Raise UserError starting with `what` when fewer than `needed` bytes are free at `path`."""
    free = free_space(path)
    if needed > free:
        raise UserError(f"{what}: about {size_in_words(needed)} are needed and {size_in_words(free)} are free; "
                        f"{advice}")


def size_in_words(size: float) -> str:
    """A number of bytes in words, such as `1.2 GB`."""
    for unit, bytes_each in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if size >= bytes_each:
            return f"{size / bytes_each:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"
