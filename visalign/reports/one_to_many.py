"""The page of `visalign reward eval --many`: shares, places of the right ones, and the worst mistakes."""

from pathlib import Path

import numpy as np
from markupsafe import Markup

from visalign.data.ratings import RatedMedia
from visalign.evaluation.one_to_many import ManyReport
from visalign.evaluators.one_to_many import OneToMany
from visalign.reports import charts, render_page, shown_media
from visalign.rewards import Reward
from visalign.storage.files import write_atomically

MISTAKES_SHOWN, PLACES_SHOWN = 6, 10


def write_many_report(file: Path, reward: Reward, reports: dict[str, ManyReport], items: list[RatedMedia]) -> None:
    """Write the page."""
    write_atomically(file, render_page(
        "one_to_many.html.j2", title=f"{reward.name}: the right one of many", reports=list(reports.values()),
        rows=lambda report: [("all", report.overall), *report.parts.items()],
        charts={name: places_chart(name, report.overall) for name, report in reports.items()},
        mistakes=[{"dimension": report.dimension, "prompt": items[right].media.prompt, "kind": items[right].kind,
                   "right": _shown(items[right]), "wrong": _shown(items[wrong])}
                  for report in reports.values() for right, wrong in report.worst[:MISTAKES_SHOWN]]))


def _shown(item: RatedMedia) -> dict:
    return shown_media(item.media.sample(item.where, 16).media)


def places_chart(dimension: str, found: OneToMany) -> Markup:
    """How many prompts have their best right sample in each place."""
    last = min(PLACES_SHOWN, max(2, int(np.ceil(max(found.places)))))
    counts = np.bincount(np.minimum(np.floor(found.places).astype(int), last), minlength=last + 1)[1:]

    def draw(axis) -> None:
        axis.bar(range(1, last + 1), 100 * counts / len(found.places), color=charts.SERIES[0])
        axis.axhline(100 * found.accuracy_by_chance, color=charts.SOFT, linewidth=0.9, linestyle=":")
        axis.set_xticks(range(1, last + 1), [f"{each}+" if each == PLACES_SHOWN else str(each)
                                             for each in range(1, last + 1)])
        axis.set_xlabel("place of the best right sample; dotted: first by chance")
        axis.set_ylabel("prompts, %")
        axis.set_title(dimension)

    return charts.chart(draw, f"{dimension}: places of the best right sample")
