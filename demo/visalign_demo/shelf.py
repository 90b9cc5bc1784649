"""Where media lie that the page shows: under names that say nothing, and nowhere else can be read."""

import re
import shutil
import uuid
from pathlib import Path

from visalign.media import Media, Video
from visalign.video import write_media

NAME = re.compile(r"[0-9a-f]{32}\.(png|mp4|webm|mkv|gif|webp|jpg|jpeg)")
KINDS = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif",
         "mp4": "video/mp4", "webm": "video/webm", "mkv": "video/x-matroska"}
KEPT = 2000


class Shelf:
    """A folder of media for comparing, emptied at the start and kept short; `others` are read but never written."""

    def __init__(self, folder: Path, *others: Path):
        self.folder, self.others = folder, others
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._names: list[str] = []

    def put(self, media: Media) -> str:
        """Keep a picture or clip for a while; returns its name."""
        name = write_media(media, self.folder / uuid.uuid4().hex).name
        self._names.append(name)
        while len(self._names) > KEPT:
            (self.folder / self._names.pop(0)).unlink(missing_ok=True)
        return name

    def find(self, name: str) -> Path | None:
        """The file of a name that was given out; None for everything else, links included."""
        if not NAME.fullmatch(name):
            return None
        for folder in (self.folder, *self.others):
            file = folder / name
            if file.is_file() and not file.is_symlink():
                return file
        return None


def is_clip(name: str) -> bool:
    return name.rpartition(".")[2] in ("mp4", "webm", "mkv")


def opaque_copy(file: Path, folder: Path) -> str:
    """Copy a file under a name that says nothing about it; returns the name."""
    name = f"{uuid.uuid4().hex}{file.suffix.lower()}"
    shutil.copyfile(file, folder / name)
    return name


def put_for_good(media: Media, folder: Path) -> str:
    """Write a picture or clip under a name that says nothing about it; returns the name."""
    return write_media(media, folder / uuid.uuid4().hex).name


def kind_of(media: Media) -> str:
    return "video" if isinstance(media, Video) else "image"
