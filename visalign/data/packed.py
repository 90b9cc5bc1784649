"""Generations inside archives, tables and stores, one after another: nothing is unpacked, and no more is in memory than
what is asked for.

    .tar       webdataset: NAME.png (or any image or video), beside it NAME.txt, NAME.caption or NAME.json
    .parquet   an image column of bytes, as they are or as `datasets` stores them, or of paths; prompt, seed
    a folder   of images and videos at a URL, beside them NAME.txt or NAME.caption
"""

import os
import posixpath
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from visalign.config.sources import PromptsFrom
from visalign.data.entry import Entry, PackedEntry
from visalign.data.folder import SIDECARS, prompt_of_name
from visalign.data.generations import (
    MEDIA_KEYS,
    PROMPT_KEYS,
    entry_of_row,
    media_key,
    names_no_media,
    prompt_of_row,
)
from visalign.data.metadata import PromptFound, prompt_in_file, prompt_in_parameters, seed_of
from visalign.data.readers import BROKEN_TABLE, MEDIA_BATCH, checked, parse_json, wanted_columns
from visalign.data.text_generations import ANSWER_KEYS, answer_key
from visalign.errors import UserError
from visalign.media.kinds import is_hidden, is_image_name, is_video_name
from visalign.storage.locations import Location, is_url
from visalign.storage.text_files import decode_text, printable

LARGEST_MEMBER = 2**31
"""A larger member of an archive is not read."""


def is_media_name(name: str) -> bool:
    return not is_hidden(posixpath.basename(name)) and (is_image_name(name) or is_video_name(name))


def entries_of_tar(archive: Location, prompts_from: PromptsFrom) -> Iterator[Entry]:
    """Every generation of a webdataset shard in its order, read once from its start to its end; at least one entry."""
    entry = None
    for entry in _of_tar(archive, prompts_from):
        yield entry
    if entry is None:
        yield Entry(str(archive), Path(archive.name), "", None, f"{archive}: holds no image and no video")


def _of_tar(archive: Location, prompts_from: PromptsFrom) -> Iterator[Entry]:
    held: dict[str, bytes] = {}
    stem = None
    problem, end = "", 0
    try:
        with archive.open() as data, tarfile.open(fileobj=data, mode="r|*") as members:
            for member in members:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not member.isfile():
                    continue
                folder, name = posixpath.split(member.name)
                key = posixpath.join(folder, name.split(".")[0])
                if key != stem:
                    yield from _together(held, prompts_from)
                    held, stem = {}, key
                if member.size > LARGEST_MEMBER:
                    yield Entry(printable(member.name), Path(name), "", None,
                                f"{printable(member.name)}: {member.size:,} bytes, more than {LARGEST_MEMBER:,}")
                else:
                    held[member.name] = members.extractfile(member).read()
                members.members = []  # which would hold what was read before
        if archive.size() < end + tarfile.BLOCKSIZE:  # which tarfile takes for a regular end
            problem = f"{archive}: ends in the middle; what follows is lost"
    except (tarfile.TarError, EOFError) as error:
        problem = f"{archive}: not a readable archive ({printable(str(error))[:120]})"
    except OSError as error:
        raise _lost(archive, error) from None
    yield from _together(held, prompts_from)
    if problem:
        yield Entry(str(archive), Path(archive.name), "", None, problem)


def _lost(place: Location, error: OSError) -> UserError:
    """What is said where the store failed, not the file: its generations are not to be taken for broken ones."""
    return UserError(f"input {place}: cannot be read ({error.strerror or printable(str(error))}); the same command "
                     "continues")


def _together(held: dict[str, bytes], prompts_from: PromptsFrom) -> Iterator[Entry]:
    """The generations among files of one name."""
    texts = {PurePosixPath(name).suffix.lower(): data for name, data in held.items() if not is_media_name(name)}
    for name, content in held.items():
        if is_media_name(name):
            found, problem = _prompt_beside(name, content, texts, prompts_from)
            yield PackedEntry(printable(name), Path(posixpath.basename(name)), found.prompt, found.seed, problem,
                              content=content)


def _prompt_beside(name: str, content: bytes, texts: dict[str, bytes],
                   prompts_from: PromptsFrom) -> tuple[PromptFound, str | None]:
    """The prompt known for a file's bytes, as `folder.prompt_of` finds it for a file; why it cannot be read."""
    wanted = {"auto": ("sidecar", "metadata"), "auto+names": ("sidecar", "metadata", "names")}.get(
        prompts_from, (prompts_from,))
    if "sidecar" in wanted:
        try:
            for suffix in SIDECARS:
                if suffix in texts:
                    return prompt_in_parameters(decode_text(texts[suffix], f"{printable(name)}{suffix}")), None
            if ".json" in texts:
                row = checked(name, parse_json(decode_text(texts[".json"], f"{printable(name)}.json")))
                if prompt_of_row(row):
                    return PromptFound(prompt_of_row(row), seed_of(row.get("seed"))), None
        except (UserError, ValueError) as error:
            return PromptFound(""), f"{printable(str(error))} (the prompt cannot be read)"
    if "metadata" in wanted and (embedded := prompt_in_file(content)):
        return embedded, None
    return PromptFound(prompt_of_name(PurePosixPath(name).stem) if "names" in wanted else ""), None


def groups_of_table(table: Location) -> list[int]:
    """How many rows each row group of a parquet file has. Raises UserError for what is no parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with table.open() as data:
            known = pq.ParquetFile(data).metadata
            return [known.row_group(number).num_rows for number in range(known.num_row_groups)]
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"input {table}: not a readable parquet file ({' '.join(str(error).split())[:120]})") from None
    except OSError as error:
        raise _lost(table, error) from None


def entries_of_group(table: Location, group: int, first: int, root: str | None) -> Iterator[Entry]:
    """The generations of one row group; `first` is the number of rows before it. root: that paths start from."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    base = Location(root) if root else table.parent()
    number = first
    try:
        with table.open() as data:
            file = pq.ParquetFile(data, buffer_size=2**20, pre_buffer=False)
            columns = [name for name in wanted_columns(file.schema_arrow)
                       if name in (*MEDIA_KEYS, *PROMPT_KEYS, *ANSWER_KEYS, "seed", "source", "sources", "mask")]
            for batch in file.iter_batches(batch_size=MEDIA_BATCH, row_groups=[group], columns=columns):
                rows = batch.to_pylist()
                yield from _of_rows(table, base, number, rows)
                number += len(rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # arrow's own, of a broken file, have none
            raise _lost(table, error) from None
        yield Entry(str(table), Path(table.name), "", None,
                    f"{table} row {number + 1}: not readable ({printable(' '.join(str(error).split()))[:120]})")


def _of_rows(table: Location, base: Location, first: int, rows: list[dict]) -> Iterator[Entry]:
    named = [row for row in rows if isinstance(row.get(media_key(row) or ""), str)]
    fetched: dict = {}
    if named and not base.is_local:
        fetched = base.read_all([row[media_key(row)] for row in named if _stays_below(row[media_key(row)])])
    for number, row in enumerate(rows, first + 1):
        where = f"{table} row {number}"
        row = checked(where, row)
        key = media_key(row)
        value = row.get(key) if key else None
        content = value.get("bytes") if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(content, bytes):
            name = path if isinstance(path, str) and path else f"{table.name} row {number}"
            yield _packed(name, content, row)
        elif isinstance(value, str) and not base.is_local:
            yield _fetched(where, value, fetched.get(value), row)
        elif BROKEN_TABLE in row or isinstance(value, str):
            yield entry_of_row(where, row, Path(table.path), Path(base.path), os.path.realpath(base.path))
        else:
            why = f"'{key}' is neither a path nor the bytes of an image or video"
            if key is None:
                is_text = answer_key(row) is not None
                why = "is a text; texts are scored without --engine ray" if is_text else names_no_media(row)
            yield Entry(printable(where), Path(table.name), "", None, f"{printable(where)}: {why}")


def _packed(name: str, content: bytes, row: dict) -> PackedEntry:
    return PackedEntry(printable(name), Path(posixpath.basename(name)), prompt_of_row(row), seed_of(row.get("seed")),
                       content=content)


def _stays_below(name: str) -> bool:
    """Whether a path names something below the folder it starts from."""
    return not is_url(name) and not name.startswith(("/", "~")) and ".." not in re.split(r"[/\\]", name)


def _fetched(where: str, name: str, content: bytes | Exception | None, row: dict) -> Entry:
    if isinstance(content, bytes):
        return _packed(name, content, row)
    why = "lies outside the table's folder; refused (name another folder with --media-root)" if content is None else \
        f"cannot be read ({type(content).__name__})"
    return Entry(printable(name), Path(posixpath.basename(name)), "", None,
                 f"{printable(where)}: {printable(name)} {why}")


def entries_at(folder: Location, names: Iterable[str], sidecars: Iterable[str],
               prompts_from: PromptsFrom) -> Iterator[Entry]:
    """Files of a folder at a URL and the texts beside them, a few fetched at a time."""
    beside = set(sidecars)
    names = list(names)
    for start in range(0, len(names), MEDIA_BATCH):
        some = names[start:start + MEDIA_BATCH]
        texts = {name: text for name in some for suffix in SIDECARS
                 if (text := str(PurePosixPath(name).with_suffix(suffix))) in beside}
        found = folder.read_all([*some, *texts.values()])
        for name in some:
            if not isinstance(found[name], bytes):
                yield Entry(printable(name), Path(posixpath.basename(name)), "", None,
                            f"{printable(name)}: cannot be read ({type(found[name]).__name__})")
                continue
            beside_it = {text: found[text] for text in [texts.get(name)] if isinstance(found.get(text), bytes)}
            yield from _together({name: found[name]} | beside_it, prompts_from)
