"""The leaderboard: who wins by people's votes, how sure that is, and how far voters and judges agree."""

import gradio as gr

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.media.video_files import read_media
from visalign.reports.charts import ladder_chart
from visalign.rewards import Reward
from visalign.votes import VoteDatabase, leaderboard
from visalign.votes.board import OVERALL, dimensions_of
from visalign_demo.compare_tab import problem_html, progress_html
from visalign_demo.context import Demo, client_of, render_fragment, sentence_of
from visalign_demo.model_worker import Job, Step

LADDER_FRAMES = 16
CLIENT_BOARDS, CLIENT_MARKS = 120, 10
"""Boards counted, and rounds of marking begun, for one client in a minute; a room of people may be one."""


def board_html(book: VoteDatabase, dimension: str) -> str:
    """The page of one dimension."""
    board = leaderboard(book, dimension)
    chart = ladder_chart(board.elo, board.models[-1], "votes") if board.elo else None
    return render_fragment("board.html.j2", board=board, chart=chart, left_matters=board.left is not None
                  and not board.left.low <= 0.5 <= board.left.high)


def unmarked(book: VoteDatabase, judge: Reward) -> list[tuple[str, str]]:
    """(prompt, file) of matchups' media that a judge has not marked."""
    known = book.marks(judge.name)
    return list(dict.fromkeys((matchup.prompt, side.file) for matchup in book.matchups()
                              for side in (matchup.a, matchup.b) if side.file not in known))


def mark_matchups(book: VoteDatabase, judges: list[Reward], job: Job, batch: int = 16) -> None:
    """Have judges mark all media of the book, by their first dimension, larger being better."""
    for judge in judges:
        todo = unmarked(book, judge)
        for start in range(0, len(todo), batch):
            job.tell(Step(f"{judge.name} marks", start, len(todo)))
            part = todo[start:start + batch]
            samples = [Sample(prompt).with_media(read_media(book.media / file, file, LADDER_FRAMES)) for prompt,
                       file in part]
            values = judge.score(samples).values[:, 0].tolist()
            sign = 1 if judge.higher_is_better else -1
            book.add_marks(judge.name, {file: None if value != value else sign * value
                                        for (_, file), value in zip(part, values, strict=True)})


def build_board_tab(demo: Demo, tab: gr.Tab) -> None:
    """The tab."""
    with gr.Row():
        dimension = gr.Dropdown([OVERALL], value=OVERALL, label="Votes", elem_id="board-dimension")
        refresh = gr.Button("Refresh", elem_id="board-refresh")
        judge = gr.Button("Let the judges mark the pairs", elem_id="board-judges")
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

    def judges_mark(request: gr.Request):
        try:
            demo.limits.check(client_of(request), "marks", CLIENT_MARKS)
            if not demo.book.matchups():
                raise UserError("There are no pairs to mark yet.")
            for step in demo.model_worker.submit(lambda job: mark_matchups(demo.book, demo.judges, job)):
                yield progress_html(step, 0)
            yield ""
        except Exception as error:
            yield problem_html(sentence_of(error))

    quiet = {"show_progress": "hidden", "queue": False}
    refresh.click(show, dimension, [dimension, shown], api_name="board", **quiet)
    dimension.input(show, dimension, [dimension, shown], api_visibility="private", **quiet)
    tab.select(show, dimension, [dimension, shown], api_visibility="private", **quiet)
    judge.click(judges_mark, None, progress, show_progress="hidden", api_visibility="private").then(
        show, dimension, [dimension, shown], api_visibility="private", **quiet)
