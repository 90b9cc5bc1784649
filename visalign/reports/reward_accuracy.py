"""The page of `visalign reward eval`."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from visalign.reports import charts, render_page, shown_media, svg
from visalign.storage.files import write_atomically

MISTAKES_SHOWN = 6


def write_reward_report(file: Path, reward, reports: dict, items: list, scored, augmented: Sequence = ()) -> None:
    """Accuracy tables, reliability plots, robustness, pairs that were made of the annotations, and the worst mistakes.
    """
    write_atomically(file, render_page(
        "reward_eval.html.j2", title=f"{reward.name} against labels", count=len(items),
        prompts=len({item.prompt for item in items}), reports=list(reports.values()), augmented=augmented,
        rows=lambda report: [("all", report.overall), *report.parts.items()],
        abstention={name: abstention_chart(report) for name, report in reports.items() if report.abstention},
        figures={name: reliability(report) for name, report in reports.items() if report.calibration},
        mistakes=[row for report in reports.values() for row in worst(reward, report, items, scored)]))


def reliability(report) -> str:
    """Predicted probability of the likelier side against how often it won, as an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.2), layout="constrained")
    axis = figure.subplots()
    data = report.calibration
    axis.plot([0.5, 1], [0.5, 1], color="#9aa5b5", linewidth=1, linestyle="--")
    sizes = 12 + 160 * np.array(data.counts) / max(1, *data.counts)
    axis.scatter(data.predicted, data.observed, s=sizes, color="#2457a6", alpha=0.75)
    axis.plot(data.predicted, data.observed, color="#2457a6", linewidth=1)
    axis.set(xlabel="predicted", ylabel="observed", xlim=(0.48, 1.02), ylim=(min(0.4, *data.observed) - 0.02, 1.03))
    axis.set_title(f"{report.dimension}: ECE {data.error:.3f}", fontsize=10, parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)
    return svg(figure)


def abstention_chart(report) -> Markup:
    """Errors among the pairs that are kept, the surest first, against the share that is kept."""
    def draw(axis) -> None:
        for colour, (by, found) in zip(charts.SERIES, report.abstention.items(), strict=False):
            axis.plot(found.curve.coverage, found.curve.risk, color=colour, linewidth=1.4, label=f"largest {by} first")
        axis.axhline(found.curve.risk[-1], color=charts.SOFT, linewidth=0.9, linestyle=":", label="without an order")
        axis.set(xlabel="share of the decided pairs that is kept", ylabel="share told wrong", xlim=(0, 1.02))
        axis.set_ylim(bottom=0)
        axis.set_title(report.dimension)
        axis.legend()

    return charts.chart(draw, f"{report.dimension}: errors against the share of pairs kept")


def worst(reward, report, items: list, scored) -> list[dict]:
    """Decided pairs with the largest margin in the wrong direction."""
    column = reward.dimensions.index(report.scored_by)
    margins = scored.a[:, column] - scored.b[:, column]
    wrong = []
    for i, item in enumerate(items):
        outcome = item.outcome.get(report.dimension, 0.5)
        toward = margins[i] if outcome > 0.5 else -margins[i]
        if outcome != 0.5 and toward < 0:
            wrong.append((toward, i))
    shown = []
    for toward, i in sorted(wrong)[:MISTAKES_SHOWN]:
        item = items[i]
        sides = [getattr(item, side).sample(item.where, 16) for side in "ab"]
        better, worse = sides if item.outcome[report.dimension] > 0.5 else sides[::-1]
        shown.append({"dimension": report.dimension, "kind": item.kind, "prompt": item.prompt, "margin": toward,
                      "better": shown_media(better.media), "worse": shown_media(worse.media)})
    return shown
