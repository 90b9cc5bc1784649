"""The plots of prove_online.py: ratios by sampling step, group sizes, and gain against passes and diversity."""

from pathlib import Path

from matplotlib.figure import Figure

BLUE, ORANGE, GREY = "#2457a6", "#b4521e", "#8a93a0"


def draw(out: Path, runs: list[dict], rows: list[dict]) -> None:
    """Write ratios.png, groups.png and cost.png for what is there."""
    ratios(out, [run for run in runs if run["method"].startswith("ratios of")])
    groups(out, [row for row in rows if " of " in row["method"] and not row["method"].startswith("ratios")])
    cost(out, [row for row in rows if " of " not in row["method"]])


def tidy(axis, title: str, x: str, y: str = "") -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


def ratios(out: Path, runs: list[dict]) -> None:
    """Mean log ratio of the last update of each epoch in units of its spread, by sampling step."""
    if not runs:
        return
    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    axes = figure.subplots(1, 2)
    for method, colour in (("ratios of flow_grpo", ORANGE), ("ratios of grpo_guard", BLUE)):
        tables = [table for run in runs if run["method"] == method for table in run["tables"]]
        if not tables:
            continue
        steps = sorted(map(int, tables[0]["ratio"]))

        def mean(measure, steps=steps, tables=tables) -> list[float]:
            return [sum(measure(table, str(step)) for table in tables) / len(tables) for step in steps]

        label = {"flow_grpo": "Flow-GRPO", "grpo_guard": "GRPO-Guard"}[method.removeprefix("ratios of ")]
        axes[0].plot(steps, mean(lambda t, s: (t["ratio"][s] - 1) / max(t["ratio_std"][s], 1e-12)), "o-", color=colour,
                     label=label, markersize=4)
        axes[1].plot(steps, mean(lambda t, s: t["ratio_std"][s] / max(t["ratio_std"].values())), "o-", color=colour,
                     label=label, markersize=4)
    axes[0].axhline(0, color=GREY, linewidth=0.7)
    tidy(axes[0], "mean of ratio - 1, in standard deviations", "sampling step (0: pure noise)")
    tidy(axes[1], "spread of the ratio, largest step = 1", "sampling step (0: pure noise)")
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(out / "ratios.png", dpi=130)


def groups(out: Path, rows: list[dict]) -> None:
    """Held-out gain by group size, against the median and against the mean."""
    if not rows:
        return
    figure = Figure(figsize=(4.6, 3.0), layout="constrained")
    axis = figure.subplots()
    for kind, colour, shift in (("median", BLUE, -0.08), ("mean", ORANGE, 0.08)):
        chosen = sorted((int(row["method"].split(" of ")[1].split("+")[0]), row["change"]) for row in rows
                        if row["method"].startswith(kind))
        x = [i + shift for i in range(len(chosen))]
        axis.errorbar(x, [c.value for _, c in chosen], [[c.value - c.low for _, c in chosen],
                                                         [c.high - c.value for _, c in chosen]],
                      fmt="o-", color=colour, capsize=3, label=f"against the {kind}")
        axis.set_xticks(range(len(chosen)), [str(size) for size, _ in chosen])
    axis.set_ylim(bottom=0)
    tidy(axis, f"held-out gain in {rows[0]['reward']}", "samples trained on in each group")
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(out / "groups.png", dpi=130)


def cost(out: Path, rows: list[dict]) -> None:
    """Gain and loss of diversity of every method, one panel a reward; grey where the gain is not clear of zero."""
    if not rows:
        return
    rewards, methods = sorted({row["reward"] for row in rows}), list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure(figsize=(4.2 * len(rewards) + 1.4, 3.9), layout="constrained")
    axes = figure.subplots(1, len(rewards), squeeze=False)[0]
    for axis, reward in zip(axes, rewards, strict=True):
        for row in (row for row in rows if row["reward"] == reward):
            change, diversity = row["change"], row["diversity"]
            colour = BLUE if change.low > 0 else GREY
            axis.errorbar(change.value, diversity.value, [[diversity.value - diversity.low],
                                                          [diversity.high - diversity.value]],
                          [[change.value - change.low], [change.high - change.value]], color=colour, linewidth=0.4,
                          alpha=0.6)
            axis.scatter(change.value, diversity.value, s=95, color=colour, zorder=3)
            axis.annotate(str(methods.index(row["method"]) + 1), (change.value, diversity.value), fontsize=6.5,
                          zorder=4,
                          color="white", ha="center", va="center")
        axis.axhline(0, color=GREY, linewidth=0.7)
        axis.axvline(0, color=GREY, linewidth=0.7)
        tidy(axis, reward, "held-out gain", "change in diversity")
    names = "\n".join(f"{i + 1:2d}  {name}" for i, name in enumerate(methods))
    figure.text(1.0, 0.5, names, fontsize=8, family="monospace", va="center", ha="left")
    figure.savefig(out / "cost.png", dpi=120, bbox_inches="tight")
