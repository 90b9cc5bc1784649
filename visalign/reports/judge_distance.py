"""The page of `visalign reward distance`: the tree of judges and the matrix of their distances."""

from pathlib import Path

from markupsafe import Markup
from scipy.cluster.hierarchy import dendrogram

from visalign.evaluators.judge_distance import UNRELATED, JudgeDistances
from visalign.reports import charts, render_page
from visalign.storage.files import write_atomically


def write_judge_distances(file: Path, distances: JudgeDistances, source: str) -> None:
    """Write the page; `source` is what the samples are called on it."""
    order = judges_in_order(distances)
    write_atomically(file, render_page(
        "judge_distance.html.j2", title="Distances of judges", source=source, judges=order, found=distances,
        tree=tree_chart(distances), rows=[(a, [(a != b, distances.of(a, b)) for b in order]) for a in order]))


def judges_in_order(distances: JudgeDistances) -> list[str]:
    """The judges as the leaves of their tree, so that near ones are neighbours."""
    return dendrogram(distances.merges, no_plot=True, labels=list(distances.judges))["ivl"]


def tree_chart(distances: JudgeDistances) -> Markup:
    """The average-linkage tree of the judges, over their distance; dotted: unrelated judges."""
    tree = dendrogram(distances.merges, no_plot=True, labels=list(distances.judges))
    names = tree["ivl"]

    def draw(axis) -> None:
        for places, heights in zip(tree["icoord"], tree["dcoord"], strict=True):
            axis.plot(heights, places, color=charts.SERIES[0], linewidth=1.4)
        axis.axvline(UNRELATED, color=charts.SOFT, linewidth=0.9, linestyle=":")
        axis.set_yticks([5 + 10 * place for place in range(len(names))], names)  # where scipy puts its leaves
        axis.set_ylim(10 * len(names), 0)
        axis.set_xlim(0, 1)
        axis.set_xlabel("distance at which they join; dotted: unrelated")

    return charts.chart(draw, f"tree of the judges {', '.join(names)}", width=6.4, height=1.2 + 0.32 * len(names))
