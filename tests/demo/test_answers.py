"""The blind vote on answers of language models: what is shown, what is hidden, and the pairs that come of it."""

import json
import re
from dataclasses import replace

import pytest

from visalign.data.text_annotations import read_text_annotations
from visalign.errors import UserError
from visalign.votes import export_votes, leaderboard
from visalign_demo.board_tab import score_matchups
from visalign_demo.context import Demo, DemoSettings
from visalign_demo.runs_tab import Run, samples_html
from visalign_demo.server import blocks_of
from visalign_demo.vote_tab import Booth

HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e"


def answers(folder, words):
    folder.mkdir(parents=True)
    rows = [{"prompt": f"Why {i}?", "answer": "" if (i, seed) == (2, 1) else f"{HOSTILE} because\nof " + "it " * words,
             "seed": seed} for i in range(3) for seed in range(2)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.fixture
def demo(tmp_path):
    models = {"plain": answers(tmp_path / "made" / "plain", 3), "tuned": answers(tmp_path / "made" / "tuned", 1)}
    made = Demo(DemoSettings(models, (), tmp_path / "book", tmp_path / "runs", pairs=6))
    made.pool.start()
    made.pool.join(60)
    return made


def test_answers_are_shown_escaped_and_nothing_tells_the_models(demo):
    assert demo.modality == "text" and len(demo.book.matchups()) == 6 and not demo.pool.problem
    booth, seen = Booth(demo), ""
    for _ in range(6):
        table = booth.deal("ann", "")
        html = booth.html(table)
        seen += html
        assert "plain" not in html and "tuned" not in html and "<script>alert" not in html and "<img" not in html
        booth.vote("ann", table.held, "tie", {}, 1.0)
    assert "\\x1b[31m\\u202e because\nof it it it" in seen and "(empty)" in seen and "Why 2?" in seen
    name = demo.book.matchups()[0].a.file
    assert re.fullmatch(r"[0-9a-f]{32}\.txt", name) and demo.media_store.find(name) is None


def test_votes_become_pairs_of_texts(demo, tmp_path):
    booth = Booth(demo)
    table = booth.deal("ann", "")
    with pytest.raises(UserError, match="no matchup is decided"):
        export_votes(demo.book, tmp_path / "none")
    first = table.current.matchup.id
    while table.current:
        said = "left" if table.current.sides[0].model == "tuned" else "right"
        said = "tie" if table.current.matchup.id == first else said
        table = booth.vote("ann", table.held, said, {"helpfulness": said}, 1.0)
    done = export_votes(demo.book, tmp_path / "out", chance=True)
    assert (done.decided, done.ties, done.comparisons.name) == (5, 1, "pairs.jsonl")
    rows = [json.loads(line) for line in done.comparisons.read_text().splitlines()]
    assert len(rows) == 5 and all(row["chance"] == 1.0 for row in rows)
    assert all(row["chosen"] in ("", f"{HOSTILE} because\nof it ") for row in rows)
    read = read_text_annotations(str(tmp_path / "out" / "comparisons.jsonl"), ("Overall", "helpfulness"))
    assert len(read) == 6 and sorted(item.outcome["Overall"] for item in read).count(0.5) == 1
    each = export_votes(demo.book, tmp_path / "each", per_voter=True)
    assert all(json.loads(line)["user"].startswith("user-") for line in each.comparisons.read_text().splitlines())


def test_rewards_of_texts_are_compared_with_the_votes(demo):
    class Alone:
        def tell(self, step):
            pass

    score_matchups(demo.book, demo.rewards, Alone())
    known = demo.book.scores("brevity")
    files = {side.file: side.model for matchup in demo.book.matchups() for side in (matchup.a, matchup.b)}
    assert known.keys() == files.keys() and sorted(set(known.values())) == pytest.approx([-0.6, -0.4, 0])
    assert leaderboard(demo.book).votes == 0


def test_the_page_has_the_tabs_that_answers_have(demo):
    labels = {block.label for block in blocks_of(demo).blocks.values() if block.get_block_name() == "tabitem"}
    assert labels == {"Blind vote", "Leaderboard", "Runs"}


def test_texts_meet_texts_only(demo, tmp_path):
    from tests.demo.conftest import write_folder

    images = str(write_folder(tmp_path / "images", 60))
    with pytest.raises(UserError, match="images and texts cannot be compared"):
        Demo(replace(demo.settings, models=demo.settings.models | {"images": images}, folder=tmp_path / "other"))
    with pytest.raises(UserError, match="--drawn names samples of an image"):
        Demo(replace(demo.settings, rollouts=(tmp_path,), folder=tmp_path / "other"))


def test_a_language_run_shows_its_answers(tmp_path):
    folder = tmp_path / "runs" / "lm"
    answers(folder / "samples" / "step-00000000", 2)
    html = samples_html(Run("lm", folder), 0)
    assert "Why 1?" in html and html.count("va-answer") == 6 and "<script>alert" not in html and "<img" not in html
