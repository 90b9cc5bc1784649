"""Prompt sets: a text file, one per line; tables, with the source images of edits; captions of the embedded emoji and
videos, and edits of them; questions for language models; diversity prompts; suites."""

from collections.abc import Sequence
from pathlib import Path

from visalign.data.diversity_prompts import family_prompts
from visalign.data.edits import KEPT_SOURCES, OWN_COLUMNS, SHARED_COLUMNS, row_notes, row_sources, source_columns
from visalign.data.embedded_edits import edit_prompts
from visalign.data.embedded_images import emoji_captions
from visalign.data.embedded_videos import video_captions
from visalign.data.mossbench import mossbench_prompts
from visalign.data.polite import polite_prompts
from visalign.data.readers import READERS, json_list
from visalign.data.rows import BadRow, check_row, row_prompt, shortened, table_rows
from visalign.data.sources import default_root, is_table, local_path, table_files
from visalign.data.suites import read_suite
from visalign.data.topics import topic_prompts
from visalign.errors import UserError
from visalign.media.source_images import with_sources
from visalign.storage.old_names import PROMPT_SETS
from visalign.storage.text_files import is_whole, read_lines

PROMPT_COLUMNS = ("prompt", "prompts", "caption", "text", "instruction")


def read_prompts(source: str | Sequence[str], limit: int | None = None) -> list[str]:
    """Prompts of a text file, a table with a column of prompts, `edit:TABLE`, `emoji:train`, `videos:train`,
    `emoji-edits:train`, `polite-emoji:train` (data/polite.py), `topics:train` (data/topics.py), `families:layout`
    (data/diversity_prompts.py), `geneval:FILE` (data/suites.py) or `mossbench:FOLDER` (data/mossbench.py); or prompts
    given as a sequence.

    A row's source images (data/edits.py) are carried in its prompt; in `edit:TABLE` every row must have some. Raises
    UserError when the file is missing, empty or not text.
    """
    if not isinstance(source, str):
        return list(source)[:limit]
    kind, _, rest = source.partition(":")
    if kind in PROMPT_SETS and rest:
        raise UserError(f"prompts {source}: is called {PROMPT_SETS[kind]}:{rest} now")
    if kind in _SETS:
        prompts = _SETS[kind](source, rest)
    elif is_table(local_path(source)):
        prompts = _of_table(source)
    else:
        prompts = prompt_lines(source, f"prompts {source}")
    if not prompts:
        raise UserError(f"prompts {source}: the file holds no prompt; one per line is expected")
    return prompts[:limit]


def names_prompts(source: str) -> bool:
    """Whether a text names one of the sets of prompts that `read_prompts` knows by a word, such as emoji:train."""
    kind, _, rest = source.partition(":")
    return bool(rest) and (kind in _SETS or kind in PROMPT_SETS)


def count_prompts(source: str | Sequence[str] | None, limit: int | None) -> int:
    """How many `read_prompts` gives; about that many where the source is not known yet (None)."""
    return (limit or 1000) if source is None else len(read_prompts(source, limit))


def prompt_lines(path: str | Path, where: str) -> list[str]:
    """One prompt per line; empty lines and comments (`# ...`) are left out. Raises UserError as `read_text` does."""
    prompts = []
    for number, line in enumerate(read_lines(path, where), 1):
        text = line.strip()
        if text and text != "#" and not text.startswith("# "):
            if not is_whole(text):
                raise UserError(f"{where}: line {number} holds half of a character or a NUL")
            prompts.append(text)
    return prompts


def _of_table(source: str, edits: bool = False) -> list[str]:
    """Column `prompt` (or another of PROMPT_COLUMNS) of a table, with the source images that its rows name; a JSON list
    may hold the prompts themselves. edits: whether every row must have a source image."""
    files, prompts, root = table_files(source, "train"), [], default_root(source)
    if files[0].suffix.lower() == ".json" and not edits and all(isinstance(entry, str)
                                                                for entry in json_list(files[0])):
        return [entry.strip() for entry in json_list(files[0]) if entry.strip()]
    for where, row in table_rows(source):
        check_row(row)
        column = next((name for name in row if name.strip().lower() in PROMPT_COLUMNS), None)
        if column is None:
            raise UserError(f"prompts {where}: has no column of prompts (allowed: {', '.join(PROMPT_COLUMNS)}; it has "
                            f"{shortened(', '.join(row)) or 'none'})")
        words = row_prompt(row, column, where).strip()
        columns = OWN_COLUMNS + SHARED_COLUMNS if edits else source_columns(row)
        sources = row_sources(row, where, root, KEPT_SOURCES, columns)
        if edits and not sources:
            raise BadRow(f"{where}: names no source image, which every edit has (allowed: source, sources, image, "
                         f"images; it has {shortened(', '.join(row))})")
        notes = row_notes(row, where, root, KEPT_SOURCES) if sources else {}
        prompts.append(with_sources(words, sources, notes))
    return prompts


def _of_edits(source: str, table: str) -> list[str]:
    if not is_table(local_path(table)):
        raise UserError(f"prompts {source}: edits are a table with the columns prompt and source (a file ending in "
                        f"{', '.join(READERS)})")
    return _of_table(table, edits=True)


def _of_emoji(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: the embedded set has the splits train and held_out")
    return emoji_captions(split)


def _of_embedded_edits(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: the embedded edits have the splits train and held_out")
    return edit_prompts(split)


def _of_embedded_videos(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: the embedded videos have the splits train and held_out")
    return video_captions(split)


def _of_polite(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: polite prompts have the splits train and held_out")
    return polite_prompts(source.partition(":")[0], split)


def _of_topics(source: str, split: str) -> list[str]:
    if split not in ("train", "held_out"):
        raise UserError(f"prompts {source}: the embedded topics have the splits train and held_out")
    return topic_prompts(split)


def _of_families(source: str, axis: str) -> list[str]:
    return family_prompts(axis)


def _of_suite(source: str, path: str) -> list[str]:
    return list(dict.fromkeys(item.prompt for item in read_suite(source)[1]))


_SETS = {"edit": _of_edits, "emoji": _of_emoji, "emoji-edits": _of_embedded_edits, "videos": _of_embedded_videos,
         "polite-emoji": _of_polite, "polite-videos": _of_polite,
         "topics": _of_topics, "families": _of_families, "geneval": _of_suite, "t2i-compbench": _of_suite,
         "dpg-bench": _of_suite, "vbench": _of_suite, "mossbench": mossbench_prompts}
