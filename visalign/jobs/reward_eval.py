"""`visalign reward eval`: a reward against annotations, as JSON, margins and a report."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from visalign.data.annotations import Annotation
from visalign.errors import UserError, notice
from visalign.evaluation.augmented_kinds import AugmentedKind, augmented_kinds
from visalign.evaluation.reward_eval import (
    DimensionReport,
    ScoredAnnotation,
    column_for,
    report_dimension,
    reward_report_json,
    score_annotations,
)
from visalign.reports.reward_accuracy import write_reward_report
from visalign.rewards import load_reward
from visalign.storage.files import write_atomically


def evaluate_reward(spec, items: list[Annotation], folder: Path, device: str = "cpu",
                    edits: bool = True, augmented: Sequence[Annotation] = ()) -> dict[str, DimensionReport]:
    """Score `items` and write eval.json, margins.parquet and report.html into `folder`.

    augmented: pairs that were made of them, which are told of apart. Raises UserError when no annotation can be scored.
    """
    reward = load_reward(spec, device)
    scored = score_annotations(reward, items, edits)
    dimensions = sorted({name for item in items for name in item.outcome})
    reports = {name: report for name in dimensions if (report := report_dimension(reward, name, items, scored))}
    if not reports:
        raise UserError(f"reward {reward.name}: could not score any of {len(items)} annotations")
    told = told_of_augmented(reward, items, scored, list(augmented))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "eval.json",
                     (json.dumps(reward_report_json(reward, reports, told), indent=2) + "\n").encode())
    margins = pa.table({"where": [item.where for item in items], "kind": [item.kind for item in items],
                        **{f"margin_{name}": (scored.a - scored.b)[:, j] for j, name in enumerate(reward.dimensions)}})
    pq.write_table(margins, folder / "margins.parquet")
    write_reward_report(folder / "report.html", reward, reports, items, scored, told)
    return reports


def told_of_augmented(reward, items: list[Annotation], scored: ScoredAnnotation,
                      augmented: list[Annotation]) -> list[AugmentedKind]:
    """What the reward makes of pairs that were made of `items`, said as well; [] of none."""
    if not augmented:
        return []
    made = score_annotations(reward, augmented, edits=False)
    found: list[AugmentedKind] = []
    for name in sorted({name for pair in augmented for name in pair.outcome}):
        column = column_for(reward, name)
        margins = made.a[:, column] - made.b[:, column]
        found += augmented_kinds(augmented, margins, name, items, scored.a[:, column] - scored.b[:, column])
    for each in found:
        notice(each.in_words())
    return found
