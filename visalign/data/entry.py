"""One generation on disk, and many of them with notes on what was left out."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.media.video_files import modality_of, read_media
from visalign.storage.text_files import printable


@dataclass(frozen=True)
class Entry:
    """One generation: its path as the source names it, the file, its prompt ('' if unknown) and seed.

    problem: why it cannot be read, where that is known before opening it.
    """

    path: str
    file: Path
    prompt: str
    seed: int | None = None
    problem: str | None = None

    def files(self) -> list[Path]:
        """Its files: itself, or the frames of a folder."""
        return sorted(self.file.iterdir()) if self.file.is_dir() else [self.file]

    def digest(self) -> str:
        """A hash of the content. Raises OSError when it cannot be read."""
        digest = hashlib.sha256()
        for file in self.files():
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def stamp(self) -> str:
        """Sizes and times of its files, which change when it is regenerated; '' where it does not exist."""
        try:
            return " ".join(f"{stat.st_size}-{stat.st_mtime_ns}" for stat in map(Path.stat, self.files()))
        except OSError:
            return ""

    def modality(self) -> str:
        """`image` or `video`. Raises UserError when it is neither."""
        if self.problem:
            raise UserError(self.problem)
        return modality_of(self.file)

    def sample(self, frames: int = 64) -> Sample:
        """Decoded; known["remarks"] says which parts of the file were not used. Raises UserError when that fails."""
        if self.problem:
            raise UserError(self.problem)
        remarks: list[str] = []
        media = read_media(self.file, self.path, frames, remarks)
        return Sample(self.prompt, seed=self.seed, known={"remarks": remarks} if remarks else {}).with_media(media)


class Generations(list[Entry]):
    """Entries in a fixed order. notes: a sentence each for what was left out of their source."""

    def __init__(self, entries: Iterable[Entry] = (), notes: Iterable[str] = ()):
        super().__init__(entries)
        self.notes = tuple(notes)

    @property
    def prompt_hint(self) -> str:
        """How to give prompts, where some have none; else ''."""
        missing = sum(not entry.prompt and not entry.problem for entry in self)
        return "" if not missing else (
            f"{missing} of {len(self)} files have no prompt; write it into NAME.txt beside each NAME.png, use the "
            "file names with --prompts-from names, or name a manifest with the columns prompt and image")


def outside(file: Path, root: str) -> str | None:
    """Why a file is refused; `root` is a real path."""
    try:
        real = os.path.realpath(file)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return f"{printable(str(file))!r}: is not a usable path ({error})"
    if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
        return f"{printable(str(file))}: lies outside {root}; refused (name another folder with --media-root)"
    return None
