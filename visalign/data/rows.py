"""Rows of tables and their fields, for every command that reads one; every error names the file and line."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from PIL import Image

from visalign.data.readers import BROKEN_TABLE, file_rows
from visalign.data.sources import table_files
from visalign.data.table_media import TableMedia, known_rows
from visalign.errors import UserError, nearest
from visalign.media.video_files import FRAMES_FILE
from visalign.storage.hashed_users import hashed_user

MediaReference = bytes | TableMedia | str
"""An image or video as stored: its bytes, where in a table they are, or a path."""
YES, NO = {"true", "t", "yes", "y", "1", "1.0"}, {"false", "f", "no", "n", "0", "0.0", "nan", ""}
"""What a column of yes and no may hold, in lower case."""


class BadRow(UserError):
    """One row that cannot be used; `data check` lists them, training stops at the first."""


def table_rows(source: str, split: str = "train", notes: Path | None = None) -> Iterator[tuple[str, dict]]:
    """(where, row) of a table or a folder of them. Raises UserError when the source as a whole cannot be read.

    notes: a folder where it is noted what bytes they hold, which are then read when they are wanted (table_media.py).
    """
    for file in table_files(source, split):
        yield from file_rows(file) if notes is None else known_rows(file, notes)


def check_row(row: dict) -> None:
    """Raise BadRow for a row that could not be read."""
    if BROKEN_TABLE in row:
        raise BadRow(row[BROKEN_TABLE])


def take(row: dict, key: str, where: str) -> Any:
    check_row(row)
    value = row.get(key)
    if value is None or isinstance(value, str) and not value.strip():
        state = "is empty" if key in row else f"is missing{nearest(key, row) if row else ''}"
        raise BadRow(f"{where}: '{key}' {state}")
    return value


def media_reference(value: Any, key: str, where: str, roots: Path | Sequence[Path]) -> MediaReference:
    """The bytes, or the path of an existing file; `roots`: folders that a relative path may start from."""
    if isinstance(value, dict):  # how `datasets` stores an Image column
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        from visalign.media.samples import to_bytes

        return to_bytes(value)
    if isinstance(value, bytes | TableMedia) and value:
        return value
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{where}: '{key}' is neither a path nor the bytes of an image or video")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", value):
        raise BadRow(f"{where}: '{key}' is a web address ({shortened(value)}); nothing is downloaded, so fetch the "
                     "files and give their paths")
    if value.startswith("data:") or len(value) > 1000:
        raise BadRow(f"{where}: '{key}' holds an image as text ({shortened(value)}), which is not read; give a path, "
                     "or bytes in parquet")
    roots = [roots] if isinstance(roots, Path) else roots
    found = find_file(value, roots)
    if found is None:
        hint = "; it is a Windows path; give paths relative to the table" if PureWindowsPath(value).drive else ""
        raise BadRow(f"{where}: '{key}' names {roots[0] / shortened(value)}, which does not exist{hint}")
    return str(found)


def find_file(value: str, roots: Sequence[Path]) -> Path | None:
    """The file (or folder of frames) that a table names, whatever system wrote it.

    Tried as written, with slashes for backslashes, and in both Unicode forms (macOS separates letters and accents).
    """
    forms = dict.fromkeys(text for written in (value, value.strip(), value.strip().replace("\\", "/"))
                          for text in (written, *(unicodedata.normalize(form, written) for form in ("NFC", "NFD"))))
    for root in roots:
        for form in forms:
            try:
                path = root / Path(form).expanduser()
                if path.is_file() or (path / FRAMES_FILE).is_file():
                    return path
            except (OSError, ValueError, RuntimeError):  # too long a name, or ~ of an unknown user: no such file either
                continue
    return None


def shortened(value: Any, length: int = 80) -> str:
    """A value shortened for a message."""
    text = str(value)
    return text if len(text) <= length else f"{text[:length]}..."


def plain_names(row: dict, known: frozenset[str]) -> dict:
    """The row, with columns that differ from a known one only in case renamed to it (Prompt, CHOSEN)."""
    odd = {name: name.lower() for name in row if name.lower() != name and name.lower() in known - row.keys()}
    return {odd.get(name, name): value for name, value in row.items()} if odd else row


def row_strength(row: dict, where: str) -> float:
    """How clear a preference is; 1 where not given."""
    strength = row_number(row, "strength", where, 1.0)
    if strength < 0:
        raise BadRow(f"{where}: 'strength' is {strength:g} (allowed: 0 or more)")
    return strength


def row_chance(row: dict, where: str) -> float:
    """How probable it is that the preference is right; 1 where nothing is said."""
    chance = row_number(row, "chance", where, 1.0)
    if not 0.5 <= chance <= 1:
        raise BadRow(f"{where}: 'chance' is {chance:g} (allowed: 0.5, nobody knows, to 1, certain; below 0.5 the other "
                     "sample is the preferred one)")
    return chance


def row_number(row: dict, key: str, where: str, default: float | None = None) -> float | None:
    value = row.get(key)
    if value is None or value == "":
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        comma = " (write a point for the comma)" if isinstance(value, str) and "," in value else ""
        raise BadRow(f"{where}: '{key}' is '{shortened(value)}', not a number{comma}") from None
    except OverflowError:
        raise BadRow(f"{where}: '{key}' is {shortened(value)}, too large for a number") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise BadRow(f"{where}: '{key}' is {value!r}, not a finite number")
    return number


def row_user(row: dict, where: str, key: str = "user") -> str | None:
    """The annotator of a row, hashed; None where not given."""
    value = row.get(key)
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, float) and value.is_integer():  # a column of numbers with gaps is read as floats
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(f"{where}: '{key}' is neither text nor a whole number")
    return hashed_user(str(value))


def says_yes(row: dict, key: str, where: str) -> bool:
    """Whether a yes-or-no column says yes, also in a spreadsheet's words; no where it is empty or missing."""
    word = str(row.get(key) if row.get(key) is not None else "").strip().lower()
    if word not in YES | NO:
        raise BadRow(f"{where}: '{key}' is '{shortened(word)}' (allowed: true or false, yes or no, 1 or 0)")
    return word in YES


def row_prompt(row: dict, key: str, where: str) -> str:
    prompt = take(row, key, where)
    if not isinstance(prompt, str):
        several = "; give each its own row" if isinstance(prompt, list) else ""
        raise BadRow(f"{where}: '{key}' is not text but {type(prompt).__name__}{several}")
    return prompt
