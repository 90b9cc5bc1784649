"""Sources of generated images, videos and texts: their files, their prompts, and what was left out.

A source is one of
    a manifest     JSONL, JSON, CSV or parquet with prompt (or caption, text), image (or video, path, file, file_name,
                   media) and optionally seed; of edits also source or sources (edits.py); of samples that grew as
                   trees also leaf (leaves.py); of texts prompt and answer (text_generations.py)
    a folder       that `visalign generate` wrote (its samples.jsonl), one in the imagefolder layout (its metadata.jsonl
                   or .csv), or any folder of media (folder.py)
    a file         one image or video
    a run          of `visalign train`: the newest samples on its held-out prompts
Files outside the manifest's own folder (or the media root) are refused, symbolic links included.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from visalign.config.sources import PromptsFrom
from visalign.data.edits import KEPT_SOURCES, row_notes, row_sources
from visalign.data.entry import Entry, Generations, outside
from visalign.data.folder import folder_entries, prompt_of
from visalign.data.leaves import leaf_of_row
from visalign.data.metadata import seed_of
from visalign.data.readers import BROKEN_TABLE, READERS
from visalign.data.rows import find_file, table_rows
from visalign.data.sources import is_table
from visalign.data.text_generations import ANSWER_KEYS, answer_key, text_entries
from visalign.errors import UserError, nearest
from visalign.media.kinds import in_order, is_image_name, is_video_name
from visalign.media.source_images import is_edit, notes_of, split_prompt, with_sources
from visalign.storage.run_folder import read_metrics
from visalign.storage.text_files import normal_form, printable

MEDIA_KEYS = ("file", "file_name", "image", "video", "path", "media", "file_path", "filename")
PROMPT_KEYS = ("prompt", "caption", "text")
MANIFESTS = tuple(READERS)
LISTS = ("samples.jsonl", "metadata.jsonl", "metadata.csv", "metadata.parquet")
"""Manifests inside a folder: visalign's own, and those of the imagefolder layout."""


def find_generations(source: str | Path, prompts_from: PromptsFrom = "auto",
                     media_root: str | Path | None = None) -> Generations:
    """Every generation of a source, in a fixed order. Raises UserError when there is none."""
    named = printable(str(source))
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            found = _of_folder(path, prompts_from, media_root)
        elif is_table(path) and path.is_file():
            found = Generations(_manifest(path, media_root))
        elif (is_image_name(path) or is_video_name(path)) and path.is_file():
            embedded, problem = prompt_of(path, prompts_from)
            found = Generations([Entry(printable(path.name), path, embedded.prompt, embedded.seed, problem)])
        elif path.is_file():
            shards = "; .tar is read with --engine ray" if path.suffix.lower() == ".tar" else ""
            raise UserError(f"input {named}: neither a folder, an image, a video nor a manifest "
                            f"({', '.join(READERS)}){shards}")
        else:
            raise UserError(f"input {named}: there is no such file or folder")
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a NUL, ~ of an unknown user
        raise UserError(f"input {named}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not found:
        raise UserError(". ".join([f"input {named}: holds no image and no video, nor a samples.jsonl of prompt and "
                                   "answer (another table is named itself)", *found.notes]))
    return found


def _of_folder(path: Path, prompts_from: PromptsFrom, media_root: str | Path | None) -> Generations:
    for name in LISTS:
        if (path / name).is_file() and (name == LISTS[0] or _is_of_generations(path / name)):
            return Generations(_manifest(path / name, media_root))
    if (path / "config.yaml").is_file() and (path / "samples").is_dir():
        return Generations(_run(path))
    return folder_entries(path, prompts_from)


def _is_of_generations(file: Path) -> bool:
    """Whether a metadata table names files or holds answers; a suite's metadata.jsonl (suites.py) does not."""
    _, row = next(table_rows(str(file), "train"), ("", {}))
    return media_key(row) is not None or answer_key(row) is not None


def _manifest(file: Path, media_root: str | Path | None) -> Iterator[Entry]:
    root = Path(media_root).expanduser() if media_root else file.parent
    if not root.is_dir():
        raise UserError(f"media root {root}: there is no such folder")
    real = os.path.realpath(root)
    for where, row in table_rows(str(file), "train"):
        yield from entries_of_row(where, row, file, root, real)


def entries_of_row(where: str, row: dict, file: Path, root: Path, real: str) -> Iterator[Entry]:
    """The generations of a row: one that names a file, or answers. real: the root, without symbolic links."""
    if media_key(row) is None and answer_key(row) is not None:
        yield from text_entries(where, row, file)
    else:
        yield entry_of_row(where, row, file, root, real)


def entry_of_row(where: str, row: dict, file: Path, root: Path, real: str) -> Entry:
    """The generation that a row of a manifest names. real: the root, without symbolic links."""
    if BROKEN_TABLE in row:
        return Entry(printable(where), file, "", None, printable(row[BROKEN_TABLE]))
    key = media_key(row)
    if key is None or not isinstance(row[key], str):
        why = names_no_media(row) if key is None else (
            f"'{key}' is not a path of a file; images inside a table are read by `train`, `data check` and "
            "`score --engine ray` only")
        return Entry(printable(where), file, "", None, printable(f"{where}: {why}"))
    media = find_file(row[key], [root]) or root / row[key]
    sources, notes, problem = _edit_of(row, where, root, real)
    try:
        leaf = leaf_of_row(row, where)
    except UserError as error:
        leaf, problem = None, problem or printable(str(error))
    return Entry(printable(row[key]), media, prompt_of_row(row), seed_of(row.get("seed")),
                 outside(media, real) or problem, sources, notes, leaf)


def media_key(row: dict) -> str | None:
    """The column in which a row has or names its image or video."""
    return next((key for key in MEDIA_KEYS if row.get(key)), None)


def names_no_media(row: dict) -> str:
    meant = nearest("image", map(str, row)) if row else ""
    return f"names no file in any of {', '.join(MEDIA_KEYS)}, and has no {ANSWER_KEYS[0]}{meant}"


def prompt_of_row(row: dict) -> str:
    """The prompt of a manifest's row, '' where there is none."""
    prompt = next((row[name] for name in PROMPT_KEYS if isinstance(row.get(name), str) and row[name].strip()), "")
    return normal_form(printable(prompt))


def _edit_of(row: dict, where: str, root: Path, real: str) -> tuple[tuple[Path, ...], dict[str, str], str | None]:
    """A row's source images and what else it says of its edit, or why they cannot be used."""
    try:
        sources = tuple(map(Path, row_sources(row, where, root, KEPT_SOURCES)))
        notes = row_notes(row, where, root, KEPT_SOURCES) if sources else {}
        with_sources(str(row.get("prompt", "")), sources)
    except UserError as error:
        return (), {}, printable(str(error))
    kept = os.path.realpath(Path(KEPT_SOURCES).expanduser())
    used = [*sources, *(Path(notes[name]) for name in notes if name == "mask")]
    problem = next((why for file in used if (why := outside(file, real)) and outside(file, kept)), None)
    return ((), {}, problem) if problem else (sources, notes, None)


def _run(folder: Path) -> Iterator[Entry]:
    """Samples are named by prompt number and image number; the prompts are in the metrics."""
    steps = sorted(p for p in (folder / "samples").glob("step-*") if p.is_dir())
    prompts = next((row["prompts"] for row in read_metrics(folder) if row.get("kind") == "held_out"), None)
    if steps and (steps[-1] / LISTS[0]).is_file():  # of a language model
        yield from _manifest(steps[-1] / LISTS[0], None)
        return
    if not steps or prompts is None:
        raise UserError(f"input {folder}: this run has not written samples yet")
    for file in sorted(steps[-1].glob("[0-9]*-*.*"), key=lambda file: in_order(file.name)):
        number = int(file.stem.split("-")[0])
        prompt = prompts[number] if number < len(prompts) else ""
        words, files = split_prompt(prompt) if is_edit(prompt) else (prompt, ())
        yield Entry(str(file.relative_to(folder)), file, normal_form(words), sources=files,
                    notes=notes_of(prompt) if files else {})
