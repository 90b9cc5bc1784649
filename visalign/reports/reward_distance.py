"""The page of `visalign reward distance`: the tree of rewards and the matrix of their distances."""

from pathlib import Path

from markupsafe import Markup
from scipy.cluster.hierarchy import dendrogram

from visalign.evaluators.reward_distance import UNRELATED, RewardDistances
from visalign.reports import charts, render_page
from visalign.storage.files import write_atomically


def write_reward_distances(file: Path, distances: RewardDistances, source: str) -> None:
    """Write the page; `source` is what the samples are called on it."""
    order = rewards_in_order(distances)
    write_atomically(file, render_page(
        "reward_distance.html.j2", title="Distances of rewards", source=source, rewards=order, found=distances,
        tree=tree_chart(distances), rows=[(a, [(a != b, distances.of(a, b)) for b in order]) for a in order]))


def rewards_in_order(distances: RewardDistances) -> list[str]:
    """The rewards as the leaves of their tree, so that near ones are neighbours."""
    return dendrogram(distances.merges, no_plot=True, labels=list(distances.rewards))["ivl"]


def tree_chart(distances: RewardDistances) -> Markup:
    """The average-linkage tree of the rewards, over their distance; dotted: unrelated rewards."""
    tree = dendrogram(distances.merges, no_plot=True, labels=list(distances.rewards))
    names = tree["ivl"]

    def draw(axis) -> None:
        for places, heights in zip(tree["icoord"], tree["dcoord"], strict=True):
            axis.plot(heights, places, color=charts.SERIES[0], linewidth=1.4)
        axis.axvline(UNRELATED, color=charts.SOFT, linewidth=0.9, linestyle=":")
        axis.set_yticks([5 + 10 * place for place in range(len(names))], names)  # where scipy puts its leaves
        axis.set_ylim(10 * len(names), 0)
        axis.set_xlim(0, 1)
        axis.set_xlabel("distance at which they join; dotted: unrelated")

    return charts.chart(draw, f"tree of the rewards {', '.join(names)}", width=6.4, height=1.2 + 0.32 * len(names))
