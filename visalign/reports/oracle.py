"""What the page of a comparison shows of an oracle's labels: the curve from scores to labels, and the levels."""

from typing import Any

import numpy as np
from markupsafe import Markup

from visalign.evaluation.compare import Results
from visalign.evaluation.oracle import CalibratedReward
from visalign.reports import charts


def oracle_shown(results: Results) -> dict[str, Any] | None:
    """The labels, what is told by each reward, and its chart; None where there were no labels."""
    found = results.oracle
    if found is None:
        return None
    return {"found": found, "rewards": [
        {"told": each, "chart": None if each.refused else curve_of_labels(results, each)} for each in found.rewards]}


def curve_of_labels(results: Results, told: CalibratedReward) -> Markup:
    """The labelled samples, the curve through them, and below it where the scores of each model lie."""
    found = results.oracle
    low, high, differences = found.low, found.high, "differences of scores" if found.of_votes else "scores"
    palette = charts.colours(results.models, results.base)

    def draw(axis) -> None:
        axis.plot(told.scores, told.labels, "o", color=charts.SOFT, alpha=0.35, markersize=4, label=found.labelled)
        axis.plot(*zip(*told.curve, strict=True), color=charts.INK, linewidth=1.5, label="their curve")
        for i, (model, level) in enumerate(told.levels.items()):
            place = low - (0.06 + 0.05 * i) * (high - low)
            axis.plot(level.reach, [place] * len(level.reach), color=palette[model], linewidth=3, solid_capstyle="butt",
                      label=charts.shown_name(model) if len(told.levels) <= 6 else None)
        axis.set_xlabel(f"{told.reward}; thick: 95 % of a model's {differences}")
        axis.locator_params("x", nbins=5)
        axis.set_ylabel("won" if found.of_votes else found.column)
        axis.set_yticks(np.linspace(low, high, 5))
        axis.legend()

    return charts.chart(draw, f"{found.column} by {told.reward}: {found.labelled} and the curve through them")
