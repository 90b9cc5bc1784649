"""The page of `visalign reward probe`: what the features hold, label by label."""

from pathlib import Path

from markupsafe import Markup

from visalign.evaluators.probing import Probe
from visalign.reports import charts, render_page
from visalign.storage.files import write_atomically


def write_probes(file: Path, reward: str, source: str, probes: dict[str, Probe], refused: dict[str, str]) -> None:
    """Write the page; what is held most comes first."""
    ordered = dict(sorted(probes.items(), key=lambda pair: -pair[1].selectivity))
    write_atomically(file, render_page(
        "reward_probe.html.j2", title=f"What the features of {reward} hold", source=source, probes=ordered,
        refused=refused, chart=probes_chart(ordered)))


def probes_chart(probes: dict[str, Probe]) -> Markup:
    """Of every label the accuracy with its interval, and that of shuffled labels with its range."""
    names = list(probes)

    def draw(axis) -> None:
        for place, each in enumerate(probes.values()):
            accuracy = each.accuracy
            axis.plot([100 * accuracy.low, 100 * accuracy.high], [place, place], color=charts.SERIES[0], linewidth=1.4)
            axis.plot(100 * accuracy.value, place, "o", color=charts.SERIES[0], markersize=6,
                      label=None if place else "labels")
            axis.plot([100 * end for end in each.control_range], [place + 0.2] * 2, color=charts.SOFT, linewidth=1)
            axis.plot(100 * each.control, place + 0.2, "o", markerfacecolor="none", color=charts.SOFT, markersize=6,
                      label=None if place else "shuffled labels")
            axis.plot(100 * each.chance, place, "|", color=charts.SERIES[4], markersize=14,
                      label=None if place else "chance")
        axis.set_yticks(range(len(names)), list(map(charts.shown_name, names)))
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_xlim(0, 103)
        axis.set_xlabel("balanced accuracy on held-out prompts, %")
        axis.legend(loc="lower left")

    return charts.chart(draw, f"balanced accuracy of probes of {', '.join(names)}", width=6.4,
                        height=1.6 + 0.34 * len(names))
