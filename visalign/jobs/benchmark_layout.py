"""`visalign benchmark layout`: generations in the folders that a public suite's own scripts read."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from visalign.data.entry import Entry
from visalign.data.generations import find_generations
from visalign.data.suites import read_suite
from visalign.data.text_generations import TextEntry
from visalign.errors import UserError
from visalign.storage.text_files import normal_form


@dataclass(frozen=True)
class LaidOut:
    """prompts written, files written, prompts of the suite that had too few generations, and why files were left
    out."""

    prompts: int
    files: int
    missing: int
    refused: tuple[str, ...] = ()


def lay_out(source: str, suite: str, out: Path) -> LaidOut:
    """Copy what `source` holds of a suite's prompts into `out`, all of it or nothing.

    Raises UserError when `out` is not empty, when no prompt has as many generations as the suite wants, or a file
    cannot be used.
    """
    kind, items = read_suite(suite)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out {out}: is {'not empty' if out.is_dir() else 'a file'}; choose another folder")
    groups: dict[str, list[Entry]] = {}
    found = find_generations(source)
    if any(isinstance(entry, TextEntry) for entry in found):
        raise UserError(f"input {source}: holds texts; the suites are of images and videos")
    for entry in found:
        if not entry.problem:
            groups.setdefault(entry.prompt, []).append(entry)
    refused = tuple(entry.problem for entry in found if entry.problem)
    of = {item: groups.get(normal_form(item.prompt), []) for item in items}
    ready = [item for item in items if len(of[item]) >= kind.needed]
    if not ready:
        raise UserError(f"input {source}: no prompt of {suite} has {kind.needed} generations; make them with `visalign "
                        f"generate MODEL @{suite} --samples-per-prompt {kind.needed}`"
                        + (f" ({len(refused)} files cannot be used: {refused[0]})" if refused else ""))
    beside = out.with_name(f".tmp-{out.name}")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        files = sum(kind.write(beside, item, of[item]) for item in tqdm(ready, desc="laying out", unit="prompt"))
        if out.exists():
            out.rmdir()
        os.replace(beside, out)
    except OSError as error:
        raise UserError(f"out {out}: cannot be written ({error})") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return LaidOut(len(ready), files, len(items) - len(ready), refused)
