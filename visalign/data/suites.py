"""Prompts of public benchmark suites, from the files those suites ship, and the folders their scripts expect.

    geneval:FILE          evaluation_metadata.jsonl -> 00000/metadata.jsonl and 00000/samples/00000.png
    t2i-compbench:FILE    a category's .txt, one prompt a line -> samples/PROMPT_000000.png
    dpg-bench:FOLDER      of prompt files ID.txt -> ID.png, four pictures in a square
    vbench:FILE           VBench_full_info.json, or a .txt -> PROMPT-0.mp4 ... PROMPT-4.mp4

Only prompts and names are handled here; the suites' own scripts score.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visalign.data.generations import Entry
from visalign.disk import copy_atomically, write_atomically
from visalign.errors import UserError, nearest
from visalign.kinds import is_clip_name
from visalign.media import fit_square, to_bytes
from visalign.pictures import read_image


@dataclass(frozen=True)
class Item:
    """One prompt of a suite: its number or name there, and what else its scripts want to find beside the pictures."""

    prompt: str
    key: str
    metadata: str = ""


@dataclass(frozen=True)
class Suite:
    """read(path) gives the items; needed: generations of a prompt; write(folder, item, entries) returns the files."""

    read: Callable[[Path], list[Item]]
    needed: int
    write: Callable[[Path, Item, list[Entry]], int]


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read_geneval(path: Path) -> list[Item]:
    return [Item(json.loads(line)["prompt"], f"{i:05d}", line) for i, line in enumerate(_lines(path))]


def _read_lines(path: Path) -> list[Item]:
    return [Item(line.strip(), f"{i:06d}") for i, line in enumerate(_lines(path))]


def _read_dpg(path: Path) -> list[Item]:
    return [Item(file.read_text(encoding="utf-8").strip(), file.stem) for file in sorted(path.glob("*.txt"))]


def _read_vbench(path: Path) -> list[Item]:
    if path.suffix != ".json":
        return _read_lines(path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Item(prompt, prompt) for prompt in dict.fromkeys(row["prompt_en"] for row in rows)]


def _as_png(entry: Entry, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if entry.file.suffix.lower() == ".png":
        copy_atomically(entry.file, file)
    else:
        write_atomically(file, to_bytes(read_image(entry.file, entry.path)))


def _write_geneval(folder: Path, item: Item, entries: list[Entry]) -> int:
    for k, entry in enumerate(entries):
        _as_png(entry, folder / item.key / "samples" / f"{k:05d}.png")
    write_atomically(folder / item.key / "metadata.jsonl", f"{item.metadata}\n".encode())
    return len(entries) + 1


def _write_compbench(folder: Path, item: Item, entries: list[Entry]) -> int:
    for k, entry in enumerate(entries):
        _as_png(entry, folder / "samples" / f"{_file_name(item.prompt)}_{int(item.key) * len(entries) + k:06d}.png")
    return len(entries)


def _write_dpg(folder: Path, item: Item, entries: list[Entry]) -> int:
    pictures = [read_image(entry.file, entry.path) for entry in entries[:4]]
    side = min(min(picture.size) for picture in pictures)
    canvas = Image.new("RGB", (2 * side, 2 * side))
    for k, picture in enumerate(pictures):
        canvas.paste(fit_square(picture, side), (side * (k % 2), side * (k // 2)))
    write_atomically(folder / f"{item.key}.png", to_bytes(canvas))
    return 1


def _write_vbench(folder: Path, item: Item, entries: list[Entry]) -> int:
    for k, entry in enumerate(entries):
        if not is_clip_name(entry.file) and entry.file.suffix.lower() != ".gif":
            raise UserError(f"suite vbench: {entry.path} is no clip")
        copy_atomically(entry.file, folder / f"{_file_name(item.prompt)}-{k}{entry.file.suffix.lower()}")
    return len(entries)


def _file_name(prompt: str) -> str:
    """A prompt as a file name; a slash is the one character that cannot stay."""
    return prompt.replace("/", "_")


SUITES: dict[str, Suite] = {
    "geneval": Suite(_read_geneval, 4, _write_geneval),
    "t2i-compbench": Suite(_read_lines, 10, _write_compbench),
    "dpg-bench": Suite(_read_dpg, 4, _write_dpg),
    "vbench": Suite(_read_vbench, 5, _write_vbench),
}


def read_suite(source: str) -> tuple[Suite, list[Item]]:
    """The suite and its items from `NAME:PATH`. Raises UserError naming what is wrong."""
    name, colon, path = source.partition(":")
    if name not in SUITES or not colon:
        raise UserError(f"suite {source}: expected NAME:PATH{nearest(name, SUITES)}")
    try:
        items = SUITES[name].read(Path(path).expanduser())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"suite {source}: cannot be read ({error})") from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"suite {source}: is not the file that {name} ships ({type(error).__name__} {error})"
                        ) from None
    if not items:
        raise UserError(f"suite {source}: holds no prompt")
    return SUITES[name], items
