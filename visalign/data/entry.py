"""One generation on disk, with the source images of an edit, and many of them with notes on what was left out."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from visalign.data.leaves import Leaf
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.media.source_images import prompt_group, read_source, with_sources
from visalign.media.video_files import modality_of, read_media
from visalign.storage.files import stamp_of
from visalign.storage.text_files import printable


@dataclass(frozen=True)
class Entry:
    """One generation: its path as the source names it, the file, its prompt ('' if unknown) and seed.

    problem: why it cannot be read, where that is known before opening it. sources: the images that an edit's prompt
    speaks of; notes: what else is said of the edit (EDIT_NOTES). leaf: of which tree it grew, where it did.
    """

    path: str
    file: Path
    prompt: str
    seed: int | None = None
    problem: str | None = None
    sources: tuple[Path, ...] = ()
    notes: dict[str, str] = field(default_factory=dict, hash=False)
    leaf: Leaf | None = None

    @property
    def asked(self) -> str:
        """What its generator was given: the prompt with its source images."""
        return with_sources(self.prompt, self.sources, self.notes)

    @property
    def group(self) -> str:
        """What it has in common with other generations of the same prompt and source images, wherever those lie."""
        return prompt_group(self.asked) if self.sources else self.prompt

    @property
    def paired_within(self) -> str:
        """What it has in common with what it is compared with: its group, and of that its tree."""
        return self.group if self.leaf is None else f"{self.group} (tree {self.leaf.tree})"

    @property
    def kind(self) -> str:
        """What it is counted as in summaries: its suffix."""
        return self.file.suffix.lower() or "folders of frames"

    def refuse_problem(self) -> None:
        """Raise UserError where it is known that it cannot be read."""
        if self.problem:
            raise UserError(self.problem)

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
            return " ".join(map(stamp_of, (self.file, *self.sources)))
        except OSError:
            return ""

    def modality(self) -> str:
        """`image`, `video` or `text`. Raises UserError when it is none of them."""
        self.refuse_problem()
        return modality_of(self.file)

    def stored(self) -> Path | bytes:
        """Where it is read from."""
        return self.file

    def sample(self, frames: int = 64) -> Sample:
        """Decoded; known["remarks"] says which parts of the file were not used. Raises UserError when that fails."""
        self.refuse_problem()
        remarks: list[str] = []
        media = read_media(self.stored(), self.path, frames, remarks)
        known = {"source_prompt": self.asked, **self.notes} if self.sources else {}
        return Sample(self.prompt, media, self.seed, known | ({"remarks": remarks} if remarks else {}),
                      self.source_images())

    def source_images(self) -> tuple[Image.Image, ...]:
        """`sources` decoded. Raises UserError when one cannot be read."""
        return tuple(read_source(file, self.path) for file in self.sources)


@dataclass(frozen=True)
class PackedEntry(Entry):
    """A generation of which `file` is only the name: its bytes were in a table, an archive or a store."""

    content: bytes = field(default=b"", repr=False)

    def stored(self) -> Path | bytes:
        return self.content


class Generations(list[Entry]):
    """Entries in a fixed order. notes: a sentence each for what was left out of their source."""

    def __init__(self, entries: Iterable[Entry] = (), notes: Iterable[str] = ()):
        super().__init__(entries)
        self.notes = tuple(notes)

    @property
    def prompt_hint(self) -> str:
        """How to give prompts, where some have none; else ''."""
        missing = sum(not entry.prompt and not entry.problem for entry in self)
        if missing and all(entry.kind == "texts" for entry in self):
            return f"{missing} of {len(self)} texts have no prompt; give their rows a column prompt"
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
