"""`visalign votes board`: votes counted, and a fair ranking of them, on the terminal and as a page."""

from pathlib import Path

from tqdm import tqdm

from visalign.errors import UserError, nearest
from visalign.reports.votes import in_brackets, votes_page
from visalign.storage.files import write_atomically
from visalign.votes import Leaderboard, VoteDatabase, leaderboard
from visalign.votes.board import dimensions_of
from visalign.votes.fair import LEFT, FairBoard, fair_board
from visalign.votes.style import measure_style


def count_votes(book: VoteDatabase, dimension: str, style: bool, page: Path | None) -> list[str]:
    """Lines for the terminal. style: measure the media and take it out of the votes. page: a file to write. Raises
    UserError for a dimension in which nobody voted, media that cannot be read, and a page that cannot be written."""
    if dimension not in (known := dimensions_of(book.votes())):
        raise UserError(f"votes board: nobody voted in '{dimension}'{nearest(dimension, known)}")
    if style:
        measure_style(book, lambda files: tqdm(files, desc="measuring style", unit="file", disable=not files))
    board, fair = leaderboard(book, dimension), fair_board(book, dimension, style)
    lines = [*board_lines(board), "", *fair_lines(fair)]
    if page is not None:
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(page, votes_page(board, fair))
        except OSError as error:
            raise UserError(f"votes board: --page {page} cannot be written ({error.strerror})") from None
        lines.append(f"page: {page}")
    return lines


def board_lines(board: Leaderboard) -> list[str]:
    lines = [f"{board.votes} votes by {len(board.voters)} voters"]
    for i, model in enumerate(board.models):
        won, lost = board.wins[i].sum(), board.wins[:, i].sum()
        rating = "Elo {:.0f} [{:.0f}, {:.0f}]  ".format(*board.elo[model]) if board.elo else ""
        lines.append(f"{model:24} {rating}won {won:g} of {won + lost:g}")
    if board.no_ranking:
        lines.append(board.no_ranking)
    lines += [duel.in_words() for duel in board.duels]
    return lines + [f"kappa {row.first} and {row.second}: {row.kappa.value:.2f} [{row.kappa.low:.2f}, "
                    f"{row.kappa.high:.2f}] on {row.matchups} pairs" for row in board.between_voters +
                    board.with_rewards]


def fair_lines(fair: FairBoard) -> list[str]:
    lines = []
    if fair.models:
        lines.append(f"fair ranking by {fair.voters} voters, with {', '.join(fair.effects)} taken out:")
        for model in fair.models:
            lines.append(f"{model:24} Elo {in_brackets(fair.fair[model], '%.0f')}, were votes independent "
                         f"{in_brackets(fair.as_independent[model], '%.0f')}, nothing taken out "
                         f"{in_brackets(fair.plain[model], '%.0f')}")
        lines.append("(intervals by voter and prompt: other people would vote on other prompts)")
        for name, effect in fair.effects.items():
            what = "being on the left" if name == LEFT else f"one sd more {name}"
            lines.append(f"{what}: of two equals it wins at odds of {in_brackets(effect, '%.2f')}")
        if fair.tie:
            lines.append(f"ties between equals, against either winning: {in_brackets(fair.tie, '%.2f')}")
    lines += [f"{note[0].upper()}{note[1:]}." for note in fair.notes]
    for each in fair.rewards:
        beside = f", with style taken out {in_brackets(each.beside, '%.2f')}" if each.beside else ""
        lines.append(f"{each.reward}: one sd more wins at odds of {in_brackets(each.alone, '%.2f')}{beside} "
                     f"({each.votes} votes)")
    return lines + [record.in_words() for record in fair.records]
