"""The page of `visalign score`: histograms, and a gallery that can be sorted by any reward."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from visalign.data.generations import Entry
from visalign.errors import UserError
from visalign.reports import render_page, shown_media, source_uris, svg
from visalign.storage.files import write_atomically

EXTREMES, MOST_SHOWN = 24, 240
"""Best and worst of each reward are always shown, up to a number that keeps the page light."""


def write_gallery(table: pa.Table, entries: list[Entry], rewards: list, file: Path) -> Path:
    """Write the page and return its path."""
    signs = {f"{reward.name}.{dimension}": 1 if reward.higher_is_better else -1
             for reward in rewards for dimension in reward.dimensions}
    columns = {name: np.array([np.nan if v is None else v for v in table.column(name).to_pylist()], np.float64)
               for name in signs}
    rows = table.select(["path", "prompt", "error", "remarks"]).to_pylist()
    shown = chosen(columns, len(rows))
    cards = []
    for i in shown:
        try:
            sample = entries[i].sample(16)
        except UserError:
            continue
        scores = [None if np.isnan(columns[c][i]) else float(columns[c][i]) for c in columns]
        cards.append({**rows[i], "shown": shown_media(sample.media, 144), "sources": source_uris(sample.sources),
                      "scores": scores})
    broken = [row for row in rows if row["error"]]
    write_atomically(file, render_page(
        "gallery.html.j2", title="Scores", total=len(rows), cards=cards,
        texts=any("text" in card["shown"] for card in cards), columns=list(columns), broken=broken[:100],
        broken_total=len(broken), stats=[statistics(name, values, signs[name]) for name, values in columns.items()]))
    return file


def chosen(columns: dict[str, np.ndarray], total: int) -> list[int]:
    """Row numbers to show: every reward's extremes, then an even sample, at most MOST_SHOWN."""
    picked: dict[int, None] = {}
    share = max(2, min(EXTREMES, MOST_SHOWN // (2 * max(1, len(columns)))))
    for values in columns.values():
        order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
        picked |= dict.fromkeys(map(int, [*order[:share], *order[-share:]]))
    for i in np.linspace(0, total - 1, min(total, MOST_SHOWN)).astype(int):
        if len(picked) >= MOST_SHOWN:
            break
        picked.setdefault(int(i))
    return sorted(picked)


def statistics(name: str, values: np.ndarray, sign: int) -> dict:
    known = values[np.isfinite(values)]
    return {"name": name, "scored": len(known), "missing": len(values) - len(known), "better": "higher" if sign > 0 else
            "lower", "mean": known.mean() if len(known) else None, "std": known.std() if len(known) else None,
            "histogram": histogram(known) if len(known) else None}


def histogram(values: np.ndarray) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6, 0.9), layout="constrained")
    axis = figure.subplots()
    axis.hist(values, bins=min(40, max(5, len(values) // 4)), color="#2457a6")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_yticks([])
    axis.tick_params(labelsize=7)
    return svg(figure)
