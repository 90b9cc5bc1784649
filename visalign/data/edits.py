"""What a row of pairs, prompts or generations says of an edit: its source images, and what rewards may look at.

    source, sources      a path, the bytes of an image, or a list of either; in CSV several paths are joined by @@
    path_src             the same, as EditReward-Data calls it
    image, images        the same, where a row cannot mean anything else: beside chosen and rejected, beside a
                         requirement (Edit-R1), and in `edit:FILE`
    requirement, source_caption, target_caption, mask      see EDIT_NOTES
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visalign.data.rows import BadRow, media_reference, shortened
from visalign.data.table_media import TableMedia
from visalign.errors import UserError
from visalign.media.image_files import BROKEN_IMAGE, open_image
from visalign.media.kinds import is_image_name
from visalign.media.source_images import EDIT_NOTES, SEPARATOR
from visalign.storage.files import write_atomically

KEPT_SOURCES = "~/.cache/visalign/sources"
"""Where images that a table of prompts holds as bytes become files, named by their content."""
SOURCES_OF_ROW = "__sources__"
"""The key under which a row keeps the files of its source images, once they are known."""
OWN_COLUMNS = ("sources", "source", "path_src")
SHARED_COLUMNS = ("images", "image")


def row_sources(row: dict, where: str, roots: Path | Sequence[Path], kept: str | Path,
                columns: tuple[str, ...] = OWN_COLUMNS) -> tuple[str, ...]:
    """The files of a row's source images, () where it has none; embedded ones are written into the folder `kept`.

    columns: where they may be; the first that is filled counts. Raises BadRow for one that is missing or not an image.
    """
    for key in columns:
        given = row.get(key)
        if given is None or given == "" or key in ("source", "sources") and _is_origin(given):
            continue
        each = given if isinstance(given, list) else given.split(SEPARATOR) if isinstance(given, str) else [given]
        return tuple(_file_of(one, key, where, roots, kept) for one in each)
    return ()


def source_columns(row: dict) -> tuple[str, ...]:
    """Where a row of pairs or prompts may name source images: in `image` only where it can mean nothing else."""
    meant = "requirement" in row or {"chosen", "rejected"} <= row.keys()
    return OWN_COLUMNS + SHARED_COLUMNS * meant


def _is_origin(value: Any) -> bool:
    """Whether it says where a row was taken from, such as pexels, which tables also call `source`."""
    return isinstance(value, str) and not all(is_image_name(part.strip()) for part in value.split(SEPARATOR))


def row_notes(row: dict, where: str, roots: Path | Sequence[Path], kept: str | Path) -> dict[str, str]:
    """What a row says of its edit, by EDIT_NOTES; the mask as the file that holds it. Raises BadRow."""
    notes = {}
    for name in EDIT_NOTES:
        value = row.get(name)
        if value is None or value == "":
            continue
        if name == "mask":
            value = _file_of(value, name, where, roots, kept)
        elif not isinstance(value, str):
            raise BadRow(f"{where}: '{name}' is not text but {type(value).__name__} ({shortened(value)})")
        notes[name] = value
    return notes


def _file_of(value: Any, key: str, where: str, roots: Path | Sequence[Path], kept: str | Path) -> str:
    found = media_reference(value, key, where, roots)
    found = found.read() if isinstance(found, TableMedia) else found
    try:
        with open_image(found) as image:
            ending = (image.format or "png").lower()
    except BROKEN_IMAGE as error:
        what = "holds bytes that are" if isinstance(found, bytes) else f"names {shortened(found)}, which is"
        reason = " ".join(str(error).split())[:100]
        raise BadRow(f"{where}: '{key}' {what} not a readable image ({reason})") from None
    file = kept_source(found, ending, Path(kept).expanduser()) if isinstance(found, bytes) else Path(found)
    return str(file.absolute())  # prompts go into settings and folders that are read from elsewhere


def kept_source(data: bytes, ending: str, folder: Path) -> Path:
    """The file that holds these bytes, named by them; written where it is not there yet.

    Raises UserError when the folder cannot be written.
    """
    file = folder / f"{hashlib.sha256(data).hexdigest()}.{ending}"
    try:
        if not file.is_file() or file.stat().st_size != len(data):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, data)
    except OSError as error:
        raise UserError(f"{folder}: source images cannot be kept there ({error.strerror})") from None
    return file
