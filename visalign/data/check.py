"""`visalign data check`: what is in a preference set, and what is wrong with it."""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from visalign.config import Data
from visalign.data.pair import FRAMES
from visalign.data.preferences import Counts, read_pairs
from visalign.errors import UserError
from visalign.media import Media, frames_of
from visalign.video import save_sheet

SHEET_ROWS = 12


@dataclass
class Summary:
    """Counts of one preference set; `broken` holds one sentence for each row that cannot be used."""

    source: str
    pairs: int = 0
    ties: int = 0
    prompts: set[str] = field(default_factory=set)
    duplicates: int = 0
    same_picture: int = 0
    sizes: Counter = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    sheet: Path | None = None

    def text(self) -> str:
        common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in self.sizes.most_common(4))
        lines = [f"{self.source}: {self.pairs} pairs of {len(self.prompts)} prompts, {self.ties} ties dropped",
                 f"sizes: {common or 'none'}",
                 f"duplicate pairs: {self.duplicates}; pairs whose two pictures are the same: {self.same_picture}",
                 f"broken rows: {len(self.broken)}", *(f"  {reason}" for reason in self.broken[:20])]
        if len(self.broken) > 20:
            lines.append(f"  ... and {len(self.broken) - 20} more")
        if self.sheet:
            lines.append(f"contact sheet (chosen left, rejected right): {self.sheet}")
        return "\n".join(lines)


def check_pairs(source: str, kind: str = "auto", image_root: str | None = None, sheet: Path | None = None,
                split: str = "train") -> Summary:
    """Read every row, decode every picture and clip. Raises UserError only when the source itself cannot be read."""
    summary, counts, seen = Summary(source), Counts(), set()
    shown: list[tuple[str, list[Media]]] = []

    def note(error: UserError) -> None:
        summary.broken.append(str(error))

    settings = Data(path=source, format=kind, image_root=image_root, split=split)
    try:
        for pair in read_pairs(settings, counts, on_bad_row=note):
            try:
                chosen, rejected = pair.media()
            except UserError as error:
                note(error)
                continue
            digests = tuple(digest_of(media) for media in (chosen, rejected))
            summary.pairs += 1
            summary.prompts.add(pair.prompt)
            summary.sizes.update([frames_of(chosen, 1)[0].size, frames_of(rejected, 1)[0].size])
            summary.same_picture += digests[0] == digests[1]
            summary.duplicates += (pair.prompt, digests) in seen
            seen.add((pair.prompt, digests))
            if len(shown) < SHEET_ROWS:
                shown.append((pair.prompt, [chosen, rejected]))
    except UserError as error:
        if not summary.broken and not counts.ties:
            raise
        note(error)
    summary.ties = counts.ties
    if sheet and shown:
        save_sheet(shown, sheet, cell=128)
        summary.sheet = sheet
    return summary


def digest_of(media: Media) -> str:
    digest = hashlib.sha256()
    for frame in frames_of(media, FRAMES):
        digest.update(frame.tobytes())
    return digest.hexdigest()
