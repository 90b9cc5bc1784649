"""Table and plot of prove_trade.py."""

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from offline_table import brief
from prove_plots import BLUE, GREY, ORANGE, tidy
from prove_trade import runs_of, start_of
from trade_trials import MEASURED, TRIALS, WORLDS

from visalign.evaluators import mean_with_interval
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.training_seeds import over_training_seeds

COLUMNS, FEW = 3, 4
"""Of panels; points of one in which controls are named, too."""
WIDE, HIGH = 110, 8
"""Of a name beside a point, in points of 1/72 inch."""


class Row(NamedTuple):
    """A trial in a world. each: its gain with every training seed. gain, beside: of the reward that the world is scored
    by (of several, the one that gained least) and of one that nobody optimises, in deviations of the untrained model's.
    kept: the relative change of diversity. rarer: change of the share of the rarer colour. over_control: the gain less
    the control's, at the same seeds."""

    name: str
    world: str
    each: tuple[float, ...]
    factor: float
    gain: Estimate
    kept: Estimate
    beside: Estimate
    rarer: Estimate
    over_control: Estimate | None


def rows_of(out: Path) -> list[Row]:
    runs = defaultdict(list)
    for each in runs_of(out).done():
        if each["prompts"] == "table":
            runs[each["trial"], each["world"]].append(each)
    start = start_of(out)
    return [row_of(name, world, runs, start) for world in WORLDS for name in TRIALS if (name, world) in runs]


def row_of(name: str, world: str, runs: dict[tuple[str, str], list[dict]], start: dict[str, list]) -> Row:
    own = sorted(runs[name, world], key=lambda run: run["seed"])
    control = {run["seed"]: run for run in runs.get((TRIALS[name].control or "", world), [])}
    pairs, over = [(run, control[run["seed"]]) for run in own if run["seed"] in control], None
    if pairs:
        with_it, without_it = (gain_of(list(each), world, start) for each in zip(*pairs, strict=True))
        over = in_mean(with_it - without_it)
    before = np.asarray(start["diversity"])
    gains = gain_of(own, world, start)
    return Row(name, world, tuple(gains.mean(1)), own[0]["factor"], in_mean(gains),
               in_mean((of_runs(own, "diversity") - before) / before.mean()),
               in_mean(change_of(WORLDS[world].beside, own, start)),
               in_mean(of_runs(own, "rarer colour") - np.asarray(start["rarer colour"])), over)


def in_mean(changes: np.ndarray) -> Estimate:
    """The mean of changes [T, P] with its interval: over training seeds and prompts, of one seed over prompts alone."""
    return mean_with_interval(changes[0]) if len(changes) == 1 else over_training_seeds(changes).change


def gain_of(runs: list[dict], world: str, start: dict[str, list]) -> np.ndarray:
    """[T, P] of the reward of the world that gained least in the mean."""
    return min((change_of(reward, runs, start) for reward in WORLDS[world].scored_by), key=np.mean)


def change_of(reward: str, runs: list[dict], start: dict[str, list]) -> np.ndarray:
    """[T, P], in deviations of the untrained model's."""
    return (of_runs(runs, reward) - np.asarray(start[reward])) / start[f"{reward}, deviation"][0]


def of_runs(runs: list[dict], figure: str) -> np.ndarray:
    """[T, P]."""
    return np.array([run["held"][figure] for run in runs])


def table(out: Path) -> str:
    rows, parts = rows_of(out), []
    for world in WORLDS:
        found = [row for row in rows if row.world == world]
        if not found:
            continue
        modes, beside = world == "two modes", MEASURED[WORLDS[world].beside]
        heads = [f"optimised: {WORLDS[world].title}", "gain", "over its control", "diversity, %", beside,
                 *(["rarer colour, share"] if modes else []), "rate", "each seed"]
        lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for row in found:
            trial = TRIALS[row.name]
            over = "" if row.over_control is None else f"{trial.control}: {brief(row.over_control, 2)}"
            cells = [trial.title or f"*{row.name}*", brief(row.gain, 2), over, brief(row.kept.scaled(100), 1),
                     brief(row.beside, 2), *([brief(row.rarer, 2)] if modes else []), f"x {row.factor:.2g}",
                     " ".join(f"{gain:+.2f}" for gain in row.each)]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw(out: Path) -> None:
    """trade.png: gain against the diversity that is kept, a panel for each world; controls are hollow, and a line leads
    from each to its method."""
    rows = rows_of(out)
    worlds = [world for world in WORLDS if any(row.world == world for row in rows)]
    lines = -(-len(worlds) // COLUMNS)
    figure = Figure(figsize=(5.2 * COLUMNS, 4.4 * lines), layout="constrained")
    axes = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axis in axes[len(worlds):]:
        axis.set_axis_off()
    for axis, world in zip(axes, worlds, strict=False):
        draw_world(axis, world, {row.name: row for row in rows if row.world == world})
    figure.draw_without_rendering()
    for axis, world in zip(axes, worlds, strict=False):
        name_points(axis, [row for row in rows if row.world == world])
    figure.savefig(out / "trade.png", dpi=110)


def draw_world(axis: Axes, world: str, rows: dict[str, Row]) -> None:
    for name, row in rows.items():
        x, y, trial = row.kept.scaled(100), row.gain, TRIALS[name]
        colour = BLUE if trial.title else ORANGE
        axis.plot([x.low, x.high], [y.value] * 2, color=colour, linewidth=1, alpha=0.25)
        axis.plot([x.value] * 2, [y.low, y.high], color=colour, linewidth=1, alpha=0.25)
        axis.plot(x.value, y.value, "o", color=colour, markersize=5, markerfacecolor=colour if trial.title else "white")
        if trial.control in rows:
            other = rows[trial.control]
            axis.plot([100 * other.kept.value, x.value], [other.gain.value, y.value], color=GREY, linewidth=0.7)
    axis.axvline(0, color=GREY, linewidth=0.8)
    axis.axhline(0, color=GREY, linewidth=0.8)
    tidy(axis, f"optimised: {WORLDS[world].title}", "change of diversity, %", "gain, standard deviations")
    axis.title.set_fontsize(9)
    axis.set_xlim(*reach([row.kept.scaled(100) for row in rows.values()]))
    axis.set_ylim(*reach([row.gain for row in rows.values()]))


def name_points(axis: Axes, rows: list[Row]) -> None:
    """Names beside points, from the lowest up, each above those that it would cover; controls where there is room."""
    points = [(axis.transData.transform((100 * row.kept.value, row.gain.value)) * 72 / axis.figure.dpi, row)
              for row in rows if TRIALS[row.name].title or len(rows) <= FEW]
    taken: list[tuple[float, float]] = []
    for (x, y), row in sorted(points, key=lambda each: each[0][1]):
        height = y + 2
        while any(abs(x - other) < WIDE and abs(height - above) < HIGH for other, above in taken):
            height += 1
        taken.append((x, height))
        trial = TRIALS[row.name]
        axis.annotate(trial.title or row.name, (100 * row.kept.value, row.gain.value), textcoords="offset points",
                      xytext=(6, height - y), fontsize=7, color=BLUE if trial.title else ORANGE,
                      arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4} if height - y > HIGH else None,
                      path_effects=[withStroke(linewidth=2, foreground="white")])


def reach(estimates: list[Estimate]) -> tuple[float, float]:
    """Limits of an axis that show all means, 0, and of the intervals what is not much wider than that."""
    values = [0.0, *(each.value for each in estimates)]
    room = 0.35 * (max(values) - min(values))
    return min(values) - room, max(values) + room
