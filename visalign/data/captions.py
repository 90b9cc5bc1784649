"""Images and videos with captions, one medium a row: what supervised fine-tuning learns from.

    rows      prompt (or caption, text) and image (or video, file_name, path, ...), such as the metadata.jsonl of the
              imagefolder layout, or the samples.jsonl of `visalign generate`
    folders   images or videos with their captions in NAME.txt, NAME.caption or NAME.png.txt beside them, in subfolders
              too; where all lie in folders named as kohya's are (10_cats), the numbers say how often each is repeated
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from visalign.data.folder import folder_entries, sidecars_of
from visalign.data.generations import MEDIA_KEYS
from visalign.data.preference_pair import PreferencePair
from visalign.data.readers import BROKEN_TABLE
from visalign.data.rows import media_reference, row_prompt, take
from visalign.errors import UserError, notice
from visalign.media.kinds import is_image_name, is_video_name

CAPTION_KEYS = ("prompt", "caption", "text")
REPEATS = "__repeats__"
_REPEATED = re.compile(r"(\d{1,3})_.*\S")
_PAIRS = {"chosen", "rejected", "tie"}


def is_captioned(row: dict) -> bool:
    """Whether a row has a prompt and one medium, and is no pair."""
    return not _PAIRS & row.keys() and any(key in row for key in CAPTION_KEYS) and any(
        isinstance(row.get(key), str | bytes | dict) for key in MEDIA_KEYS)


def from_captioned(row: dict, where: str, roots: Sequence[Path]) -> list[PreferencePair]:
    """A pair without its rejected half."""
    prompt = row_prompt(row, next(key for key in CAPTION_KEYS if key in row), where)
    key = next(key for key in MEDIA_KEYS if row.get(key))
    return [PreferencePair(prompt, media_reference(take(row, key, where), key, where, roots), None, where,
                 repeats=row.get(REPEATS, 1))]


def holds_captions(folder: Path) -> bool:
    """Whether a folder is one of media with captions: at least one of them has its text beside it."""
    media = (file for file in folder.rglob("*") if is_image_name(file) or is_video_name(file))
    return any(sidecar.is_file() for file in media for sidecar in sidecars_of(file))


def folder_rows(source: str, folder: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) of every image and video of a folder; one without a caption is broken.

    What was left out is said. Raises UserError when there is none.
    """
    entries = folder_entries(folder, "sidecar")
    if not entries:
        raise UserError(". ".join([f"data {source}: holds no image and no video", *entries.notes]))
    for note in entries.notes:
        notice(f"data {source}: {note}")
    repeats = repeats_of([entry.file.relative_to(folder) for entry in entries])
    for entry, count in zip(entries, repeats, strict=True):
        where = f"{source}/{entry.path}"
        if entry.problem or not entry.prompt:
            why = entry.problem or f"has no caption; write it into {entry.file.stem}.txt beside it"
            yield where, {BROKEN_TABLE: f"{where}: {why}"}
        else:
            yield where, {"prompt": entry.prompt, "image": str(entry.file.absolute()), REPEATS: count}


def repeats_of(files: list[Path]) -> list[int]:
    """How often each file is learnt from, by kohya's folder names, without what they have in common; else once."""
    named = [_REPEATED.fullmatch(file.parts[0]) if len(file.parts) > 1 else None for file in files]
    if not all(named) or not all(int(match[1]) for match in named):
        return [1] * len(files)
    counts = [int(match[1]) for match in named]
    common = functools.reduce(math.gcd, counts)
    return [count // common for count in counts]
