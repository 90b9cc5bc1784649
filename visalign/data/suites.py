"""Prompts of public benchmark suites, from the files those suites ship, and the folders their scripts expect.

    geneval:FILE          evaluation_metadata.jsonl -> 00000/metadata.jsonl and 00000/samples/00000.png
    t2i-compbench:FILE    a category's .txt, one prompt a line -> samples/PROMPT_000000.png
    dpg-bench:FOLDER      of prompt files ID.txt -> ID.png, four images in a square
    vbench:FILE           VBench_full_info.json, or a .txt -> PROMPT-0.mp4 ... PROMPT-4.mp4
    text:FILE             a .txt, one prompt a line, which quotes the text to be shown -> samples/PROMPT_000000.png

Only prompts and names are handled here; the suites' own scripts score, or evaluation/suites.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from visalign.data.entry import Entry
from visalign.data.readers import parse_json
from visalign.data.rows import shortened
from visalign.data.sources import local_path
from visalign.errors import UserError, nearest
from visalign.media.image_files import open_image, read_image
from visalign.media.samples import fit_square
from visalign.storage.text_files import is_whole, read_lines, read_text

MOST_BYTES = 240
"""Bytes of a prompt in a file's name, so that its number and suffix still fit in 255."""


@dataclass(frozen=True)
class SuitePrompt:
    """One prompt of a suite: its number or name there, and the metadata that its scripts expect beside the images."""

    prompt: str
    key: str
    metadata: str = ""


@dataclass(frozen=True)
class Suite:
    """read(path) gives the items; needed: generations of a prompt; write(folder, item, entries) returns the files."""

    read: Callable[[Path], list[SuitePrompt]]
    needed: int
    write: Callable[[Path, SuitePrompt, list[Entry]], int]


def _lines(path: Path) -> list[tuple[str, str]]:
    """(where, line) of every line that is not empty."""
    lines = enumerate(read_lines(path, f"suite {path}"), 1)
    return [(f"suite {path}: line {number}", line) for number, line in lines if line.strip()]


def _item(where: str, prompt: object, key: str, metadata: str = "") -> SuitePrompt:
    """Raises UserError when the prompt is not text that can be encoded."""
    if not isinstance(prompt, str) or not prompt.strip() or not is_whole(prompt):
        raise UserError(f"{where} has no text as its prompt")
    return SuitePrompt(prompt.strip(), key, metadata)


def _json_at(where: str, text: str):
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{where} is not readable as JSON ({str(error)[:120]})") from None


def _field(where: str, row: object, name: str):
    if not isinstance(row, dict) or name not in row:
        raise UserError(f"{where} has no '{name}'" + (nearest(name, row) if isinstance(row, dict) and row else ""))
    return row[name]


def _read_geneval(path: Path) -> list[SuitePrompt]:
    return [_item(where, _field(where, _json_at(where, line), "prompt"), f"{i:05d}", line.strip())
            for i, (where, line) in enumerate(_lines(path))]


def _read_lines(path: Path) -> list[SuitePrompt]:
    return [_item(where, line, f"{i:06d}") for i, (where, line) in enumerate(_lines(path))]


def _read_dpg(path: Path) -> list[SuitePrompt]:
    if not path.is_dir():
        raise UserError(f"suite dpg-bench {path}: there is no such folder of prompt files")
    return [_item(f"suite {file}", read_text(file, f"suite {file}"), file.stem) for file in sorted(path.glob("*.txt"))]


def _read_vbench(path: Path) -> list[SuitePrompt]:
    if path.suffix.lower() != ".json":
        found = _read_lines(path)
    else:
        rows = _json_at(f"suite {path}", read_text(path, f"suite {path}"))
        if not isinstance(rows, list):
            raise UserError(f"suite {path}: expected a list, found {type(rows).__name__}")
        places = [f"suite {path}: entry {number}" for number in range(1, len(rows) + 1)]
        found = [_item(where, _field(where, row, "prompt_en"), "", json.dumps(row.get("dimension", [])))
                 for where, row in zip(places, rows, strict=True)]
    of: dict[str, list[str]] = {}
    for item in found:
        of.setdefault(item.prompt, []).extend(json.loads(item.metadata or "[]"))
    return [SuitePrompt(prompt, prompt, json.dumps(names) if names else "") for prompt, names in of.items()]


def _as_png(entry: Entry, file: Path) -> None:
    """An image under a name that ends in .png: as it is if a PNG. Raises UserError when it is not an image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = read_image(entry.file, entry.path)
    with open_image(entry.file) as opened:
        is_png = opened.format == "PNG"
    if is_png:
        shutil.copyfile(entry.file, file)
    else:
        image.save(file)


def _write_geneval(folder: Path, item: SuitePrompt, entries: list[Entry]) -> int:
    for k, entry in enumerate(entries):
        _as_png(entry, folder / item.key / "samples" / f"{k:05d}.png")
    (folder / item.key / "metadata.jsonl").write_text(item.metadata + "\n", encoding="utf-8")
    return len(entries) + 1


def _write_compbench(folder: Path, item: SuitePrompt, entries: list[Entry]) -> int:
    for k, entry in enumerate(entries):
        _as_png(entry, folder / "samples" / f"{_file_name(item.prompt)}_{int(item.key) * len(entries) + k:06d}.png")
    return len(entries)


def _write_dpg(folder: Path, item: SuitePrompt, entries: list[Entry]) -> int:
    images = [read_image(entry.file, entry.path) for entry in entries[:4]]
    side = min(min(image.size) for image in images)
    canvas = Image.new("RGB", (2 * side, 2 * side))
    for k, image in enumerate(images):
        canvas.paste(fit_square(image, side), (side * (k % 2), side * (k // 2)))
    canvas.save(folder / f"{item.key}.png")
    return 1


def _write_vbench(folder: Path, item: SuitePrompt, entries: list[Entry]) -> int:
    for k, entry in enumerate(entries):
        if entry.file.is_dir() or entry.modality() != "video":
            raise UserError(f"suite vbench: {entry.path} is not a single video file")
        file = folder / f"{_file_name(item.prompt)}-{k}{entry.file.suffix.lower()}"
        if file.exists():
            raise UserError(f"suite vbench: two prompts would be named {file.name}")
        shutil.copyfile(entry.file, file)
    return len(entries)


def _file_name(prompt: str) -> str:
    """A prompt as a file name; only a slash must be replaced. Raises UserError when it is too long."""
    if len(prompt.encode()) > MOST_BYTES:
        raise UserError(f"suite: the prompt '{shortened(prompt)}' is longer than a file's name may be ({MOST_BYTES} "
                        "bytes), and the suite's scripts read it from there")
    return prompt.replace("/", "_")


SUITES: dict[str, Suite] = {
    "geneval": Suite(_read_geneval, 4, _write_geneval),
    "t2i-compbench": Suite(_read_lines, 10, _write_compbench),
    "dpg-bench": Suite(_read_dpg, 4, _write_dpg),
    "vbench": Suite(_read_vbench, 5, _write_vbench),
    "text": Suite(_read_lines, 4, _write_compbench),
}


def read_suite(source: str) -> tuple[Suite, list[SuitePrompt]]:
    """The suite and its items from `NAME:PATH`. Raises UserError naming what is wrong."""
    name, colon, path = source.partition(":")
    if name not in SUITES or not colon:
        raise UserError(f"suite {source}: expected NAME:PATH{nearest(name, SUITES)}")
    items = SUITES[name].read(local_path(path))
    if not items:
        raise UserError(f"suite {source}: holds no prompt")
    return SUITES[name], items
