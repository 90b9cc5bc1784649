"""The page of `visalign data pairs` on texts."""

from pathlib import Path

from visalign.reports import render_page, shown_text
from visalign.storage.files import write_atomically

PAIRS_SHOWN = 100


def write_pair_page(rows: list[dict], file: Path) -> None:
    """A table of prompt, chosen and rejected. rows: of pairs.parquet, whose sides are texts."""
    shown = [row | {side: {"text": shown_text(row[side])} for side in ("chosen", "rejected")}
             for row in rows[:PAIRS_SHOWN]]
    write_atomically(file, render_page("pairs.html.j2", title="Pairs", total=len(rows), rows=shown))
