"""The tables of a source: one file, or those of a folder that belong to a split.

A split is found in the names of files and folders, as hub repositories write them: train-00000-of-00001.parquet,
metadata-test.parquet, validation.jsonl, test/part-1.csv. A file of no split counts as `train`. Folders saved by
`datasets` (save_to_disk) are read by their own state.
"""

import json
import re
from pathlib import Path

from visalign.data.readers import READERS
from visalign.errors import UserError
from visalign.storage.text_files import read_text

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test", "eval": "test",
          "evaluation": "test", "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation"}
_OWN_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json"}
_SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}")


def is_table(path: Path) -> bool:
    """Whether the file's suffix, in any case, is one that is read as a table."""
    return path.suffix.lower() in READERS


def default_root(source: str) -> Path:
    path = local_path(source)
    return path if path.is_dir() else path.parent


def local_path(source: str) -> Path:
    try:
        return Path(source).expanduser()
    except RuntimeError as error:  # ~ of a user who does not exist
        raise UserError(f"data {source}: {error}") from None


def table_files(source: str, split: str) -> list[Path]:
    """The tables of a file or folder in the order of their names. Raises UserError naming what is there instead."""
    path = local_path(source)
    try:
        found = path.is_dir(), path.is_file()
    except (OSError, ValueError) as error:
        raise UserError(f"data {source[:200]}: cannot be read ({error})") from None
    if found[0]:
        return _of_split(source, path, split)
    if not found[1]:
        raise UserError(f"data {source}: there is no such file or folder; when the path is right, look at it with: "
                        "visalign data check PATH")
    if not is_table(path):
        raise UserError(f"data {source}: unknown kind of file '{path.suffix}' (allowed: {', '.join(READERS)})")
    if split != "train" and split_of(path.name) != _named(split):
        raise UserError(f"data.split {split}: {source} is one file, which has no splits; leave data.split out")
    return [path]


def split_of(name: str) -> str | None:
    """The split named in a relative path, in the file's name before its folders' names."""
    for part in reversed(Path(name).parts):
        shard = _SHARD.match(part)
        words = [word for word in re.split(r"[\W_\d]+", part.lower()) if word in SPLITS]
        if words:
            return _named(shard[1] if shard else words[-1])
    return None


def _named(split: str) -> str:
    return SPLITS.get(split.lower(), split.lower())


def _of_split(source: str, folder: Path, split: str) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = {p.name: p for p in sorted(folder.iterdir()) if (p / "state.json").is_file()}
        chosen = next((name for name in splits if _named(name) == _named(split)), None)
        return _saved(splits[chosen]) if chosen else _no_split(source, split, splits)
    if (folder / "state.json").is_file():
        return _saved(folder)
    files = _tables_in(source, folder)
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(str(file.relative_to(folder))) or "train", []).append(file)
    return splits[_named(split)] if _named(split) in splits else _no_split(source, split, splits)


def _no_split(source: str, split: str, found) -> list[Path]:
    raise UserError(f"data.split {split}: {source} holds no such split; it has {', '.join(sorted(found))}")


def has_tables(folder: Path) -> bool:
    """Whether a folder holds tables, lists (.json) aside, which other programs lay beside media."""
    try:
        return any(file.suffix.lower() != ".json" for file in _tables_in(str(folder), folder)) or any(
            (folder / name).is_file() for name in ("dataset_dict.json", "state.json"))
    except UserError:
        return False


def has_lists(folder: Path) -> bool:
    """Whether a folder holds anything that may be a table, lists (.json) included."""
    try:
        return bool(_tables_in(str(folder), folder))
    except UserError:
        return False


def _tables_in(source: str, folder: Path) -> list[Path]:
    """Tables of the folder itself, or else those below it; lists (.json) only where there is no other kind."""
    for names in (folder.iterdir(), folder.rglob("*")):
        files = sorted(p for p in names if is_table(p) and p.name.lower() not in _OWN_FILES and p.is_file()
                       and not any(part.startswith(".") for part in p.relative_to(folder).parts))
        rows = [p for p in files if p.suffix.lower() != ".json"]
        if rows or files:
            return rows or files
    raise UserError(f"data {source}: the folder holds no table (a file ending in {', '.join(READERS)}), and no image "
                    "or video with its caption in NAME.txt beside it")


def _saved(folder: Path) -> list[Path]:
    """The files of a folder that `datasets` saved, as its state lists them."""
    file = folder / "state.json"
    try:
        state = json.loads(read_text(file, f"data {file}"))
        names = [entry["filename"] for entry in state["_data_files"]]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"data {folder}: its state.json is not one that datasets.save_to_disk writes") from None
    if state.get("_indices_data_files"):
        raise UserError(f"data {folder}: was saved by an old version of `datasets` with an index beside it; save it "
                        "again with its flatten_indices().save_to_disk(...)")
    return [folder / Path(name).name for name in names]
