"""The media and tables that the page shows: under opaque names, and nothing else can be read."""

import re
import shutil
import uuid
from pathlib import Path

from visalign.data.entry import Entry
from visalign.data.text_generations import TextEntry
from visalign.media.samples import Media
from visalign.media.video_files import read_media, write_media
from visalign.votes.style import ANSWER_SUFFIX

SHOWN_SUFFIXES = re.compile(r"\.(png|mp4|webm|gif|webp|jpg|jpeg)")
NAME = re.compile(rf"[0-9a-f]{{32}}({SHOWN_SUFFIXES.pattern}|\.csv)")
KEPT = 2000
WHOLE_FRAMES = 256
"""Frames of a video that votes keep at most."""


class MediaStore:
    """A folder of media for comparing, emptied at the start and kept small; `others` are read but never written."""

    def __init__(self, folder: Path, *others: Path):
        self.folder, self.others = folder, others
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._names: list[str] = []

    def put(self, media: Media) -> str:
        """Keep an image or video for a while; returns its name."""
        return self._keep(write_media(media, self.folder / uuid.uuid4().hex).name)

    def put_table(self, table: bytes) -> str:
        """Keep a CSV for a while; returns its name."""
        name = f"{uuid.uuid4().hex}.csv"
        (self.folder / name).write_bytes(table)
        return self._keep(name)

    def _keep(self, name: str) -> str:
        self._names.append(name)
        while len(self._names) > KEPT:
            (self.folder / self._names.pop(0)).unlink(missing_ok=True)
        return name

    def find(self, name: str) -> Path | None:
        """The file of a name that was handed out; None for everything else, including links."""
        if not NAME.fullmatch(name):
            return None
        for folder in (self.folder, *self.others):
            file = folder / name
            if file.is_file() and not file.is_symlink():
                return file
        return None


def shows_video(name: str) -> bool:
    return name.rpartition(".")[2] in ("mp4", "webm")


def shows_text(name: str) -> bool:
    """Whether it is an answer, which stands in the page itself: no address shows it."""
    return name.endswith(ANSWER_SUFFIX)


def kept_entry(entry: Entry, folder: Path) -> str:
    """Write a generation under an opaque name; returns the name. Raises UserError as `opaque_copy` does."""
    if isinstance(entry, TextEntry):
        return put_for_good(entry.sample().media, folder)
    return opaque_copy(entry.file, folder)


def opaque_copy(file: Path, folder: Path) -> str:
    """Write a fresh copy of an image or video under an opaque name; returns the name.

    The original file may name its model or prompt in its metadata, and its suffix alone can give a side away.
    Raises UserError when it cannot be read.
    """
    return put_for_good(read_media(file, str(file), WHOLE_FRAMES), folder)


def put_for_good(media: Media, folder: Path) -> str:
    """Write an image, video or text under an opaque name; returns the name."""
    return write_media(media, folder / uuid.uuid4().hex).name
