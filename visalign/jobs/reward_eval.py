"""`visalign reward eval`: a reward against annotations, as JSON, margins and a report."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.data.annotations import Annotation
from visalign.errors import UserError
from visalign.evaluation.reward_eval import DimensionReport, report_dimension, reward_report_json, score_annotations
from visalign.reports.reward_accuracy import write_reward_report
from visalign.rewards import load_reward
from visalign.storage.files import write_atomically


def evaluate_reward(spec, items: list[Annotation], folder: Path, device: str = "cpu",
                    edits: bool = True) -> dict[str, DimensionReport]:
    """Score `items` and write eval.json, margins.parquet and report.html into `folder`.

    Raises UserError when no annotation can be scored.
    """
    reward = load_reward(spec, device)
    scored = score_annotations(reward, items, edits)
    dimensions = sorted({name for item in items for name in item.outcome})
    reports = {name: report for name in dimensions if (report := report_dimension(reward, name, items, scored))}
    if not reports:
        raise UserError(f"reward {reward.name}: could not score any of {len(items)} annotations")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "eval.json", (json.dumps(reward_report_json(reward, reports), indent=2) + "\n").encode())
    margins = pa.table({"where": [item.where for item in items], "kind": [item.kind for item in items],
                        **{f"margin_{name}": (scored.a - scored.b)[:, j] for j, name in enumerate(reward.dimensions)}})
    pq.write_table(margins, folder / "margins.parquet")
    write_reward_report(folder / "report.html", reward, reports, items, scored)
    return reports
