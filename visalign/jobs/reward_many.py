"""`visalign reward eval --many`: whether a reward finds the right ones among many samples of a prompt."""

import json
from pathlib import Path

from visalign.data.ratings import read_ratings
from visalign.errors import UserError
from visalign.evaluation.one_to_many import ManyReport, many_json, many_report, rows_by_prompt, score_rated
from visalign.reports.one_to_many import write_many_report
from visalign.rewards import Reward
from visalign.storage.files import write_atomically


def evaluate_many(reward: Reward, source: str, dimensions: tuple[str, ...], folder: Path,
                  media_root: str | None = None) -> dict[str, ManyReport]:
    """Score the rated samples of `source` and write many.json and report.html into `folder`.

    Raises UserError where no prompt has samples that are rated otherwise than each other, before anything is scored,
    and where none of those can be scored.
    """
    items = read_ratings(source, dimensions, media_root)
    named = [name for name in dimensions if any(name in item.labels for item in items)]
    if not any(len({items[i].labels.get(name) for i in rows} - {None}) > 1
               for rows in rows_by_prompt(items).values() for name in named):
        raise UserError(f"data {source}: no prompt has two samples that are rated otherwise than each other in "
                        f"{' or '.join(named)}, and --many asks which of a prompt's samples is best")
    values = score_rated(reward, items)
    reports = {name: report for name in named if (report := many_report(reward, name, items, values))}
    if not reports:
        raise UserError(f"reward {reward.name}: could not score all samples of any prompt of {source}")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "many.json", (json.dumps(many_json(reward, reports), indent=2) + "\n").encode())
    write_many_report(folder / "report.html", reward, reports, items)
    return reports
