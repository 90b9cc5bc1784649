"""The page of a vote database: the fair ranking, what else sways votes, and how reliable voters are."""

import math

from markupsafe import Markup

from visalign.evaluators.statistics import Estimate
from visalign.reports import render_page
from visalign.reports.charts import LINE, SERIES, SOFT, chart
from visalign.votes.board import Leaderboard
from visalign.votes.fair import FairBoard


def votes_page(board: Leaderboard, fair: FairBoard) -> bytes:
    """The page of one dimension, which nothing else is needed to read."""
    return render_page("votes.html.j2", title="Votes", board=board, fair=fair_html(fair))


def fair_html(fair: FairBoard) -> Markup:
    """The fair ranking as a part of a page; the demo's has it, too."""
    drawn = control_chart(fair) if fair.models else None
    return Markup(render_page("fair_board.html.j2", fair=fair, chart=drawn, interval=in_brackets).decode())


def in_brackets(estimate: Estimate, form: str) -> str:
    """'1012 [987, 1037]', or the value alone where no interval is known."""
    if not math.isfinite(estimate.high - estimate.low):
        return form % estimate.value
    return f"{form} [{form}, {form}]" % estimate


def control_chart(fair: FairBoard) -> Markup:
    """Elo of each model with style and side taken out (filled, intervals by voter and prompt), and without (hollow)."""
    def draw(axis) -> None:
        order = fair.models[::-1]
        axis.axvline(1000, color=LINE, linewidth=0.8)
        for values, shift, colour, face, label in ((fair.plain, -0.14, SOFT, "none", "nothing taken out"),
                                                   (fair.fair, 0.14, SERIES[0], SERIES[0], "fair")):
            for y, model in enumerate(order):
                value, low, high = values[model]
                bars = [[value - low], [high - value]] if math.isfinite(high - low) else None
                axis.errorbar([value], [y + shift], xerr=bars, fmt="o", markersize=6, linewidth=1.4, color=colour,
                              markerfacecolor=face, label=label if y == 0 else None)
        axis.set_yticks(range(len(order)), order)
        axis.set_ylim(-0.6, len(order) - 0.4)
        axis.set_xlabel("Elo (mean 1000)")
        axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)

    label = f"Elo of {', '.join(fair.models)}, fair and with nothing taken out"
    return chart(draw, label, height=1.5 + 0.45 * len(fair.models))
