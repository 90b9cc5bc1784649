"""Table and plot of prove_offline.py."""

import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from offline_trials import ALSO, RULE, TRIALS, Trial
from prove_plots import BLUE, GREY, ORANGE, tidy

from visalign.evaluators import mean_with_interval
from visalign.evaluators.statistics import Estimate

UNITS = {"accuracy": "held-out pairs ranked rightly", "way home": "distance of the way home, 40 steps",
         "tiny-clip": "tiny-clip", "told apart": "brightness for one taste less that for the other",
         "similarity": "similarity to the subject", RULE: RULE,
         f"{RULE} led away": f"{RULE}, led away from the adapter by guidance 2"}
LEVEL = {"accuracy": 0.5}
"""What an untrained policy is held to, where its own figure says nothing."""


class Row(NamedTuple):
    """A method's figures over its seeds: changes of the target, of the control's and between both, of all else."""

    name: str
    trial: Trial
    runs: list[dict]
    change: Estimate
    control: Estimate | None
    gain: Estimate | None
    beside: dict[str, Estimate]


def start_of(trial: Trial, out: Path) -> dict[str, list[float]]:
    from prove_offline import start_file

    return json.loads(start_file(trial, out).read_text())


def before_of(runs: list[dict]) -> dict[str, np.ndarray]:
    """The same of runs that say it themselves."""
    names = [name.removesuffix(" before") for name in runs[0]["held"] if name.endswith(" before")]
    return {name: mean_of(runs, f"{name} before") for name in names}


def mean_of(runs: list[dict], figure: str) -> np.ndarray:
    """By prompt or pair, over seeds."""
    return np.mean([run["held"][figure] for run in runs], 0)


def rows_of(out: Path) -> list[Row]:
    from prove_offline import runs_of

    runs = defaultdict(list)
    for each in runs_of(out).done():
        runs[each["trial"]].append(each)
    return [row_of(name, trial, runs, out) for name, trial in TRIALS.items() if trial.title and name in runs]


def row_of(name: str, trial: Trial, runs: dict[str, list[dict]], out: Path) -> Row:
    own, target = runs[name], trial.target
    before = before_of(own) if trial.recipe else start_of(trial, out)
    level = LEVEL.get(target, np.asarray(before[target]))
    change = mean_of(own, target) - level
    control = gain = None
    if trial.control in runs:
        same = {run["seed"] for run in own} & {run["seed"] for run in runs[trial.control]}
        both = [mean_of([run for run in each if run["seed"] in same], target) for each in (own, runs[trial.control])]
        control, gain = mean_with_interval(both[1] - level), mean_with_interval(both[0] - both[1])
    names = [figure for figure in before if figure != target and (figure.startswith(("diversity", *ALSO, RULE)) or
                                                                  figure in ("winners' error", "text_fit"))]
    beside = {figure: mean_with_interval(mean_of(own, figure) - np.asarray(before[figure])) for figure in names
              if len(before[figure]) > 1 and figure in own[0]["held"]}
    return Row(name, trial, own, mean_with_interval(change), control, gain, beside)


def brief(estimate: Estimate | None, digits: int = 3) -> str:
    if estimate is None:
        return ""
    text = f"{estimate.value:+.{digits}f} [{estimate.low:+.{digits}f}, {estimate.high:+.{digits}f}]"
    return f"**{text}**" if estimate.clear_of_zero else text


def works(row: Row) -> str:
    """Whether the target moved as it should, and further than the control's."""
    moved = right(row.change, row.trial.sign)
    if row.gain is None:
        return "moved, control not run" if moved else "no"
    further = right(row.gain, row.trial.sign)
    return "yes" if moved and further else "not beyond its control" if moved else "better than its control alone" \
        if further else "no"


def right(estimate: Estimate, sign: int) -> bool:
    return estimate.clear_of_zero and estimate.value * sign > 0


def table(out: Path) -> str:
    lines = ["| method | what should change | change | without its idea | difference | works | diversity | tiny-clip "
             "| steps | seeds |", "|" + "---|" * 10]
    for row in rows_of(out):
        led = " led away" if row.trial.target.endswith("led away") else ""
        control = f"{row.trial.control}: {brief(row.control)}" if row.control else ""
        cells = [f"{row.trial.title} ({row.trial.model})", UNITS.get(row.trial.target, row.trial.target),
                 brief(row.change), control, brief(row.gain), works(row),
                 *(brief(row.beside.get(f"{figure}{led}")) for figure in ("diversity", "tiny-clip")),
                 str(row.runs[0]["steps"]), str(len(row.runs))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(out: Path) -> None:
    """offline.png: a panel for each target, methods and their controls as intervals."""
    panels = defaultdict(list)
    for row in rows_of(out):
        panels[row.trial.target].append(row)
    heights = [len(rows) for rows in panels.values()]
    figure = Figure(figsize=(8.4, 0.9 * len(panels) + 0.42 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, height_ratios=[height + 1.2 for height in heights], squeeze=False)[:, 0]
    for axis, (target, rows) in zip(axes, panels.items(), strict=True):
        for place, row in enumerate(reversed(rows)):
            for estimate, shift, colour in ((row.change, 0.14, BLUE), (row.control, -0.14, ORANGE)):
                if estimate is not None:
                    axis.plot([estimate.low, estimate.high], [place + shift] * 2, color=colour, linewidth=2)
                    axis.plot(estimate.value, place + shift, "o", color=colour, markersize=4)
        axis.set_yticks(range(len(rows)), [f"{row.trial.title}, {row.trial.model}" for row in reversed(rows)])
        axis.axvline(0, color=GREY, linewidth=0.8)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        tidy(axis, UNITS.get(target, target) + ("" if rows[0].trial.sign > 0 else " (less is better)"), "")
    axes[-1].set_xlabel("change by training, 95 % intervals; blue: the method, orange: without its idea", fontsize=9)
    figure.savefig(out / "offline.png", dpi=130)
