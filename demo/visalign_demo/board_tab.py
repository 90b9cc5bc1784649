"""The leaderboard: who wins by people's votes, how sure that is, and how far voters and rewards agree."""

import gradio as gr

from visalign.errors import UserError
from visalign.reports.charts import ladder_chart
from visalign.reports.votes import fair_html
from visalign.rewards import Reward
from visalign.votes import Matchup, VoteDatabase, leaderboard
from visalign.votes.asking import sample_in
from visalign.votes.board import OVERALL, dimensions_of
from visalign.votes.fair import fair_board
from visalign_demo.compare_tab import problem_html, progress_html
from visalign_demo.context import Demo, client_of, render_fragment, sentence_of
from visalign_demo.model_worker import Job, Step

LADDER_FRAMES = 16
CLIENT_BOARDS, CLIENT_SCORINGS = 120, 10
"""Leaderboards counted, and scorings started, for one client in a minute; several people may share an address."""


def board_html(book: VoteDatabase, dimension: str) -> str:
    """The page of one dimension."""
    board = leaderboard(book, dimension)
    chart = ladder_chart(board.elo, board.models[-1], "votes") if board.elo else None
    return render_fragment("board.html.j2", board=board, chart=chart, fair=fair_html(fair_board(book, dimension)),
                           left_matters=board.left is not None and not board.left.low <= 0.5 <= board.left.high)


def unscored(book: VoteDatabase, reward: Reward) -> list[tuple[str, Matchup]]:
    """Files of matchups' media that a reward has not scored yet, with their matchup."""
    known = book.scores(reward.name)
    return list({side.file: matchup for matchup in book.matchups() if not matchup.is_anchor
                 for side in (matchup.a, matchup.b) if side.file not in known}.items())


def score_matchups(book: VoteDatabase, rewards: list[Reward], job: Job, batch: int = 16) -> None:
    """Score all media of the database by the first dimension of each reward, larger being better."""
    for reward in rewards:
        todo = unscored(book, reward)
        for start in range(0, len(todo), batch):
            job.tell(Step(f"{reward.name} scores", start, len(todo)))
            part = todo[start:start + batch]
            values = reward.score([sample_in(book, *each, LADDER_FRAMES) for each in part]).values[:, 0].tolist()
            sign = 1 if reward.higher_is_better else -1
            book.add_scores(reward.name, {file: None if value != value else sign * value
                                        for (file, _), value in zip(part, values, strict=True)})


def build_board_tab(demo: Demo, tab: gr.Tab) -> None:
    """The tab."""
    with gr.Row():
        dimension = gr.Dropdown([OVERALL], value=OVERALL, label="Votes", elem_id="board-dimension")
        refresh = gr.Button("Refresh", elem_id="board-refresh")
        score = gr.Button("Score the pairs with the rewards", elem_id="board-rewards")
    progress = gr.HTML()
    shown = gr.HTML(elem_id="board")

    def show(dimension, request: gr.Request):
        try:
            demo.limits.check(client_of(request), "board", CLIENT_BOARDS)
            known = dimensions_of(demo.book.votes())
            chosen = dimension if dimension in known else OVERALL
            return gr.Dropdown(known, value=chosen), board_html(demo.book, chosen)
        except Exception as error:
            return gr.skip(), problem_html(sentence_of(error))

    def rewards_score(request: gr.Request):
        try:
            demo.limits.check(client_of(request), "scorings", CLIENT_SCORINGS)
            if not demo.book.matchups():
                raise UserError("There are no pairs to score yet.")
            for step in demo.model_worker.submit(lambda job: score_matchups(demo.book, demo.rewards, job)):
                yield progress_html(step, 0)
            yield ""
        except Exception as error:
            yield problem_html(sentence_of(error))

    quiet = {"show_progress": "hidden", "queue": False}
    refresh.click(show, dimension, [dimension, shown], api_name="board", **quiet)
    dimension.input(show, dimension, [dimension, shown], api_visibility="private", **quiet)
    tab.select(show, dimension, [dimension, shown], api_visibility="private", **quiet)
    score.click(rewards_score, None, progress, show_progress="hidden", api_visibility="private").then(
        show, dimension, [dimension, shown], api_visibility="private", **quiet)
