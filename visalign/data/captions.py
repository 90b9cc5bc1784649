"""Images and videos with captions, one medium a row: what supervised fine-tuning learns from.

    rows      prompt (or caption, text, captions) and image (or video, file_name, path, ...), such as the metadata.jsonl
              of the imagefolder layout, or the samples.jsonl of `visalign generate`
    folders   images or videos with their captions in NAME.txt, NAME.caption or NAME.png.txt beside them, in subfolders
              too, or in the files themselves; where all lie in folders named as kohya's are (10_cats), the numbers say
              how often each is repeated, and the words are the caption in a folder of which none has its own
"""

import functools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from visalign.config.sources import CaptionSettings
from visalign.data.folder import folder_entries, prompt_of, sidecars_of
from visalign.data.generations import MEDIA_KEYS
from visalign.data.preference_pair import PreferencePair
from visalign.data.readers import BROKEN_TABLE
from visalign.data.rows import media_reference, row_prompt, take
from visalign.data.wordings import CAPTION_KEYS
from visalign.errors import UserError, notice
from visalign.media.kinds import is_image_name, is_video_name

REPEATS = "__repeats__"
_REPEATED = re.compile(r"(\d{1,3})_(.*\S)")
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


def holds_captions(folder: Path, settings: CaptionSettings, tables: bool) -> bool:
    """Whether a folder is one of media with captions: they have some, or get one.

    tables: whether it also holds what may be a list of pairs; then one medium must have its text beside it.
    """
    media = [file for file in folder.rglob("*") if is_image_name(file) or is_video_name(file)]
    if any(sidecar.is_file() for file in media for sidecar in sidecars_of(file)):
        return True
    if not media or tables:
        return False
    if settings.default or all(_folder_words([file.relative_to(folder) for file in media])):
        return True
    return any(prompt_of(file, settings.prompts_from)[0].prompt for file in media)


def folder_rows(source: str, folder: Path, settings: CaptionSettings) -> Iterator[tuple[str, dict]]:
    """(where, row) of every image and video of a folder; one without a caption is broken.

    What was left out is said. Raises UserError when there is none.
    """
    entries = folder_entries(folder, settings.prompts_from)
    if not entries:
        raise UserError(". ".join([f"data {source}: holds no image and no video", *entries.notes]))
    for note in entries.notes:
        notice(f"data {source}: {note}")
    files = [entry.file.relative_to(folder) for entry in entries]
    captioned = {file.parts[0] for file, entry in zip(files, entries, strict=True) if entry.prompt}
    for entry, file, count, words in zip(entries, files, repeats_of(files), _folder_words(files), strict=True):
        where, own = f"{source}/{entry.path}", file.parts[0] in captioned
        caption = entry.prompt or settings.default or (None if own else words)
        if entry.problem or not caption:
            why = entry.problem or f"has no caption; write it into {entry.file.stem}.txt beside it"
            yield where, {BROKEN_TABLE: f"{where}: {why}"}
        else:
            yield where, {"prompt": caption, "image": str(entry.file.absolute()), REPEATS: count}


def repeats_of(files: list[Path]) -> list[int]:
    """How often each file is learnt from, by kohya's folder names, without what they have in common; else once."""
    named = _kohya(files)
    if not named:
        return [1] * len(files)
    counts = [int(match[1]) for match in named]
    common = functools.reduce(math.gcd, counts)
    return [count // common for count in counts]


def _folder_words(files: list[Path]) -> list[str | None]:
    """The words of each file's folder, where all are kohya's."""
    named = _kohya(files)
    return [match[2] for match in named] if named else [None] * len(files)


def _kohya(files: list[Path]) -> list[re.Match]:
    """The names of the files' folders as kohya reads them; [] where one of them is none."""
    named = [_REPEATED.fullmatch(file.parts[0]) if len(file.parts) > 1 else None for file in files]
    return named if all(named) and all(int(match[1]) for match in named) else []
