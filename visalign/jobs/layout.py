"""`visalign layout`: generations in the folders that a public suite's own scripts read."""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from visalign.data.generations import Entry, find_generations
from visalign.data.suites import read_suite
from visalign.errors import UserError


@dataclass(frozen=True)
class LaidOut:
    """prompts written, files written, and prompts of the suite that had too few generations."""

    prompts: int
    files: int
    missing: int


def lay_out(source: str, suite: str, out: Path) -> LaidOut:
    """Copy what `source` holds of a suite's prompts into `out`.

    Raises UserError when `out` is not empty, or when no prompt has as many generations as the suite wants.
    """
    kind, items = read_suite(suite)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"out {out}: is not empty; choose another folder")
    groups: dict[str, list[Entry]] = {}
    for entry in find_generations(source):
        groups.setdefault(entry.prompt.strip(), []).append(entry)
    ready = [item for item in items if len(groups.get(item.prompt, [])) >= kind.needed]
    if not ready:
        raise UserError(f"input {source}: no prompt of {suite} has {kind.needed} generations; make them with `visalign "
                        f"generate MODEL @{suite} --samples {kind.needed}`")
    out.mkdir(parents=True, exist_ok=True)
    files = sum(kind.write(out, item, groups[item.prompt]) for item in tqdm(ready, desc="laying out", unit="prompt"))
    return LaidOut(len(ready), files, len(items) - len(ready))
