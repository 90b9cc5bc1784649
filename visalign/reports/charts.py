"""Charts as inline SVG that take their colours from the page, so that one chart serves light and dark mode."""

import io
import itertools
import re
from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from visalign.evaluators.overoptimisation import OveroptimisationFit
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.verdict import front

INK, SOFT, LINE = "#010203", "#040506", "#070809"
_THEME = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)"}
SERIES = ("#3b7dd8", "#d9822b", "#3aa675", "#b05cc6", "#c94f4f", "#8a8f3c", "#5fa8b8", "#7a8794")
"""Readable on white and on near-black; the base is always the last."""
_count = itertools.count()


def chart(draw: Callable, label: str, width: float = 4.6, height: float = 3.2) -> Markup:
    """`draw(axis)` as SVG; `label` is for screen readers."""
    import matplotlib
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "font.family": "sans-serif", "text.color": INK, "axes.labelcolor": SOFT,
             "axes.edgecolor": LINE, "xtick.color": SOFT, "ytick.color": SOFT, "axes.titlecolor": INK,
             "legend.frameon": False, "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8,
             "text.parse_math": False,  # names are not formulas
             "axes.spines.top": False, "axes.spines.right": False, "legend.labelcolor": INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
        axis = figure.subplots()
        axis.set_facecolor("none")
        draw(axis)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
    return _inline(buffer.getvalue(), label)


def _inline(text: str, label: str) -> Markup:
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    for sentinel, variable in _THEME.items():
        text = text.replace(sentinel, variable)
    prefix = f"c{next(_count)}-"  # ids of several charts on one page must differ
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    head = re.search(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', text)
    opening = (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
               f'viewBox="{head[1]}" role="img" aria-label="{Markup.escape(label)}">')
    text = text[:head.start()] + opening + text[head.end():]
    return Markup(text)


def colours(models: list[str], base: str) -> dict[str, str]:
    others = [model for model in models if model != base]
    return {base: SERIES[-1]} | {model: SERIES[i % (len(SERIES) - 1)] for i, model in enumerate(others)}


def shown_name(name: str) -> str:
    """As a legend shows it; matplotlib leaves out names that begin with an underscore."""
    return f"\u200b{name}" if name.startswith("_") else name


def _bars(estimate: Estimate) -> list[list[float]]:
    """Error bars; unknown ends are left out."""
    return [[max(0.0, estimate.value - estimate.low) if np.isfinite(estimate.low) else 0.0],
            [max(0.0, estimate.high - estimate.value) if np.isfinite(estimate.high) else 0.0]]


def front_chart(rewards: dict[str, Estimate], diversity: dict[str, Estimate], base: str, reward: str) -> Markup:
    """Reward against diversity, one point per model, with intervals; the front joins those that none beats in both."""
    palette = colours(list(rewards), base)
    named = len(rewards) <= 6

    def draw(axis) -> None:
        points = [(rewards[model].value, diversity[model].value) for model in rewards]
        axis.plot(*zip(*(points[i] for i in front(points)), strict=True), color=SOFT, linewidth=1, linestyle="--",
                  zorder=1)
        for model, estimate in rewards.items():
            axis.errorbar([estimate.value], [diversity[model].value], xerr=_bars(estimate),
                          yerr=_bars(diversity[model]),
                          fmt="o", color=palette[model], markersize=6, linewidth=1.2, zorder=2)
            if named or model in (base, list(rewards)[-1]):
                axis.annotate(model, (estimate.value, diversity[model].value), (7, 6), textcoords="offset points",
                              fontsize=9)
        axis.set_xlabel(f"{reward} (mean)")
        axis.set_ylabel("Vendi score within a prompt")
        axis.set_title("reward and diversity; dashed: the front")
        axis.margins(0.16)

    return chart(draw, f"{reward} against diversity for {', '.join(rewards)}")


def trade_chart(labels: dict[str, str], gains: dict[str, Estimate], kept: dict[str, Estimate], least: float,
                best: str | None, reward: str) -> Markup:
    """Reward gained against diversity kept, one point per model, joined in their order. gains: in standard deviations;
    kept, least: in percent of the base's; best: the model that is chosen."""
    def draw(axis) -> None:
        axis.plot([each.value for each in gains.values()], [kept[model].value for model in gains], color=SOFT,
                  linewidth=1, linestyle="--", zorder=1)
        for model, gain in gains.items():
            axis.errorbar([gain.value], [kept[model].value], xerr=_bars(gain), yerr=_bars(kept[model]), fmt="o",
                          color=SERIES[2] if model == best else SERIES[0], markersize=9 if model == best else 5,
                          linewidth=1.2, zorder=3 if model == best else 2)
            axis.annotate(labels[model], (gain.value, kept[model].value), (7, 6), textcoords="offset points",
                          fontsize=9, weight="bold" if model == best else "normal")
        axis.axhline(least, color=SERIES[4], linewidth=0.9, linestyle=":")
        axis.axvline(0, color=LINE, linewidth=0.8)
        axis.set_xlabel(f"{reward} gained, sd of the base")
        axis.set_ylabel("diversity kept, % of the base")
        axis.set_title("reward and diversity; dotted: the budget")
        axis.margins(0.14)

    return chart(draw, f"{reward} gained against diversity kept at the strengths {', '.join(labels.values())}")


def drift_chart(style: dict[str, dict[str, Estimate]], base: str, limit: float) -> Markup:
    """Drift of every style statistic, one colour per model."""
    palette = colours([base, *style], base)
    names = list(next(iter(style.values())))

    def draw(axis) -> None:
        step = 0.7 / len(style)
        for i, (model, changes) in enumerate(style.items()):
            for j, name in enumerate(names):
                y = len(names) - 1 - j + 0.3 - step * i
                axis.errorbar([changes[name].value], [y], xerr=_bars(changes[name]), fmt="o", markersize=4,
                              linewidth=1.2, color=palette[model],
                              label=shown_name(model) if j == 0 and len(style) > 1 else None)
        for x, dash in ((0, "-"), (-limit, ":"), (limit, ":")):
            axis.axvline(x, color=SOFT if x == 0 else SERIES[4], linewidth=0.9, linestyle=dash)
        axis.set_yticks(range(len(names) - 1, -1, -1), [name.replace("_", " ") for name in names])
        axis.set_xlabel("drift, standard deviations of the base")
        axis.set_title(f"style drift; dotted: ±{limit:g}")
        if len(style) > 1:
            axis.legend()

    return chart(draw, f"style drift of {', '.join(style)} from {base}", height=3.2 + 0.05 * len(names))


def ladder_chart(ladder: dict[str, Estimate], base: str, reward: str) -> Markup:
    palette = colours(list(ladder), base)

    def draw(axis) -> None:
        order = sorted(ladder, key=lambda model: ladder[model].value)
        for y, model in enumerate(order):
            axis.errorbar([ladder[model].value], [y], xerr=_bars(ladder[model]), fmt="o", markersize=6, linewidth=1.4,
                          color=palette[model])
        axis.set_yticks(range(len(order)), order)
        axis.set_ylim(-0.6, len(order) - 0.4)
        axis.set_xlabel("Elo (mean 1000)")
        axis.set_title(f"ladder by {reward}")

    return chart(draw, f"Elo of {', '.join(ladder)} by {reward}", height=1.3 + 0.35 * len(ladder))


def curve_chart(distance: list[float], changes: list[Estimate], fits: dict[str, OveroptimisationFit],
                best_of: list[tuple[float, float]], title: str) -> Markup:
    """A reward's change against sqrt(KL): checkpoints, the better fit with its peak, and best-of-n of the base."""
    def draw(axis) -> None:
        axis.axhline(0, color=LINE, linewidth=0.8)
        order = np.argsort(distance)
        x, y = np.array(distance)[order], np.array([change.value for change in changes])[order]
        bars = np.concatenate([_bars(changes[i]) for i in order], axis=1)
        axis.errorbar(x, y, yerr=bars, fmt="o", color=SERIES[0], markersize=5, linewidth=1.2, label="checkpoints")
        if fits:
            best = min(fits.values(), key=lambda each: each.error)
            dense = np.linspace(1e-3, max(distance) * 1.05, 200)
            axis.plot(dense, best.at(dense), color=SERIES[1], linewidth=1.4, label=f"fit, {best.form} form")
            if best.peak is not None and best.peak <= max(distance) * 1.05:
                axis.axvline(best.peak, color=SERIES[1], linewidth=1, linestyle="--")
                axis.axvspan(best.peak_low, min(best.peak_high, max(distance) * 1.05), color=SERIES[1], alpha=0.12)
        if best_of:
            shown = [(d, r) for d, r in best_of if d <= max(distance) * 1.05]
            axis.plot(*zip(*shown, strict=True), ".--", color=SERIES[-1], linewidth=1, label="best of n, base")
        axis.set_xlabel("distance from the base, √KL (√nats)")
        axis.set_title(title)
        axis.legend()

    return chart(draw, f"{title} against the distance from the base")


def steps_chart(steps: list[float], series: dict[str, list[Estimate]], title: str, unit: str = "step",
                even: bool = False) -> Markup:
    """Several curves with intervals; `even` spaces the steps evenly, as for weights of 1, 4, 16, 64."""
    places = list(range(len(steps))) if even else steps

    def draw(axis) -> None:
        for i, (name, values) in enumerate(series.items()):
            bars = np.concatenate([_bars(value) for value in values], axis=1)
            axis.errorbar(places, [value.value for value in values], yerr=bars, fmt="o-", color=SERIES[i % 7],
                          markersize=4, linewidth=1.3, label=shown_name(name))
        axis.axhline(0, color=LINE, linewidth=0.8)
        if even:
            axis.set_xticks(places, [f"{step:g}" for step in steps])
        else:
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_xlabel(unit)
        axis.set_title(title)
        axis.legend()

    return chart(draw, f"{title} by {unit}")
