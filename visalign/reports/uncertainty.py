"""Of a run that kept only pairs its model was sure of: how many, and how often labels err by how many are kept."""

import json
from pathlib import Path
from typing import Any

from visalign.reports import charts
from visalign.storage.text_files import read_text

UNCERTAINTY = "uncertainty.json"


def uncertainty_shown(folder: Path) -> dict[str, Any] | None:
    """What the page of a run shows of it; None of other runs."""
    file = folder / UNCERTAINTY
    if not file.is_file():
        return None
    found = json.loads(read_text(file, f"run {file}"))
    return {"words": found["words"], "chart": risk_coverage_chart(found) if found["curve"] else None}


def risk_coverage_chart(found: dict[str, Any]) -> Any:
    """The curve, the share that was kept, and the line of an order that knows nothing."""
    curve = found["curve"]

    def draw(axis):
        axis.plot(curve["coverage"], curve["risk"], color=charts.SERIES[0])
        axis.axhline(curve["risk"][-1], color=charts.LINE, linewidth=0.8)
        axis.axvline(found["kept"] / found["of"], color=charts.SERIES[1], linestyle="--", linewidth=0.8)
        axis.set_xlabel("coverage: share of the pairs")
        axis.set_ylabel(f"risk: label errors by {found['measured_by']}")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, max(0.5, *curve["risk"]) * 1.05)

    return charts.chart(draw, "label errors against the share of pairs kept, surest first")
