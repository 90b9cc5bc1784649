"""What the page of a comparison shows of an oracle's labels: the curve from scores to labels, and the levels."""

from typing import Any

import numpy as np
from markupsafe import Markup

from visalign.evaluation.compare import Results
from visalign.evaluation.oracle import CalibratedReward
from visalign.reports import charts

REACH = (0.025, 0.975)
"""Quantiles of a model's scores between which its line is drawn."""


def oracle_shown(results: Results) -> dict[str, Any] | None:
    """The labels, what is told by each reward, and its chart; None where there were no labels."""
    found = results.oracle
    if found is None:
        return None
    return {"found": found, "rewards": [
        {"name": name, "told": each, "chart": None if each.refused else curve_of_labels(results, name, each)}
        for name, each in found.rewards.items()]}


def curve_of_labels(results: Results, reward: str, told: CalibratedReward) -> Markup:
    """The labelled samples, the curve through them, and below it where the scores of each model lie."""
    low, high = results.oracle.low, results.oracle.high
    palette = charts.colours(results.models, results.base)

    def draw(axis) -> None:
        axis.plot(told.scores, told.labels, "o", color=charts.SOFT, alpha=0.35, markersize=4, label="labelled samples")
        axis.plot(*zip(*told.curve, strict=True), color=charts.INK, linewidth=1.5, label="their curve")
        for i, model in enumerate(results.models):
            scores = results.measured[model].rewards[reward].double().numpy()
            reach = np.quantile(scores[np.isfinite(scores)], REACH) if np.isfinite(scores).any() else []
            place = low - (0.06 + 0.05 * i) * (high - low)
            axis.plot(reach, [place] * len(reach), color=palette[model], linewidth=3, solid_capstyle="butt",
                      label=charts.shown_name(model) if len(results.models) <= 6 else None)
        axis.set_xlabel(f"{reward}; thick: 95 % of a model's scores")
        axis.set_ylabel(results.oracle.column)
        axis.set_yticks(np.linspace(low, high, 5))
        axis.legend()

    return charts.chart(draw, f"{results.oracle.column} by {reward}: labelled samples and the curve through them")
