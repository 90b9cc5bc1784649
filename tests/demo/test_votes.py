"""Blind pairs: made ahead, dealt at random, names nowhere, no vote twice, nothing lost on a restart."""

import csv
import re
from dataclasses import replace

import pytest
from PIL import Image

from tests.demo.conftest import PROMPTS, write_folder
from visalign.errors import UserError
from visalign.votes import VoteDatabase, leaderboard
from visalign.votes.fair import fair_board
from visalign.votes.style import unmeasured
from visalign_demo.board_tab import board_html
from visalign_demo.context import Demo
from visalign_demo.pair_queue import PairQueue, drawn_matchups
from visalign_demo.vote_tab import Booth, voter_of


def test_pairs_are_made_ahead_once_and_again_after_a_restart_none(demo, settings):
    matchups = demo.book.matchups()
    assert len(matchups) == 6 and {c.prompt for c in matchups} == set(PROMPTS)
    assert {(c.a.model, c.b.model) for c in matchups} == {("plain", "tuned")}
    assert all(c.a.seed == c.b.seed for c in matchups)
    assert len(list(demo.book.media.iterdir())) == 12
    again = Demo(settings)
    again.pool.start()
    again.pool.join(60)
    assert len(again.book.matchups()) == 6 and len(list(again.book.media.iterdir())) == 12


def test_a_model_alone_meets_itself_on_two_seeds(folders, settings):
    alone = Demo(replace(settings, models={"plain": folders["plain"]}, folder=settings.folder / "alone"))
    alone.pool.start()
    alone.pool.join(60)
    assert {(c.a.model, c.b.model, c.a.seed, c.b.seed) for c in alone.book.matchups()} == {("plain", "plain", 0, 1)}
    assert len(alone.book.matchups()) == 3 and Booth(alone).deal("ann", "").current is not None


def test_nothing_on_the_page_tells_the_models(demo):
    booth = Booth(demo)
    for _ in range(6):
        table = booth.deal("ann", "")
        html = booth.html(table)
        assert "plain" not in html and "tuned" not in html and "made" not in html
        assert len(re.findall(r"/media/[0-9a-f]{32}\.png", html)) in (2, 4)
        booth.vote("ann", table.held, "tie", {}, 1.0)


def test_sides_change_and_are_turned_back_into_models(demo):
    booth, lefts = Booth(demo), set()
    for voter in range(12):
        table = booth.deal(f"v{voter}", "")
        while table.current:
            tuned_left = table.current.sides[0].model == "tuned"
            lefts.add(tuned_left)
            table = booth.vote(f"v{voter}", table.held, "left" if tuned_left else "right", {"quality": "right"}, 1.0)
    assert lefts == {True, False}
    board = leaderboard(demo.book)
    assert board.models == ["tuned", "plain"] and board.wins.tolist() == [[0, 72], [0, 0]]
    assert {vote.dimensions["quality"] for vote in demo.book.votes()} == {"a", "b"}


def test_a_ballot_counts_once_and_outlives_the_server(demo, settings):
    booth = Booth(demo)
    table = booth.deal("ann", "")
    after = booth.vote("ann", table.held, "left", {}, 1.0)
    assert after.current.matchup.id == table.upcoming.matchup.id and after.note.startswith("1 of 6")
    twice = booth.vote("ann", table.held, "right", {}, 1.0)
    assert "nothing was counted twice" in twice.note and len(demo.book.votes()) == 1
    other = Booth(Demo(settings))  # a new server, the old page
    assert other.vote("ann", after.held, "tie", {}, 1.0).note.startswith("2 of 6")
    assert "had no pair of yours" in other.vote("bob", after.held, "tie", {}, 1.0).note
    assert len(VoteDatabase(settings.folder).votes()) == 2


def test_undo_shows_the_pair_again(demo):
    booth = Booth(demo)
    first = booth.deal("ann", "")
    second = booth.vote("ann", first.held, "left", {}, 1.0)
    back = booth.undo("ann", second.held)
    assert back.current.matchup.id == first.current.matchup.id and back.upcoming.matchup.id == second.current.matchup.id
    assert demo.book.votes() == [] and "no vote of yours" in booth.undo("ann", back.held).note
    assert booth.vote("ann", back.held, "right", {}, 1.0).note.startswith("1 of 6")


def test_when_all_are_voted_on_the_page_says_so(demo):
    booth = Booth(demo)
    table = booth.deal("ann", "")
    for _ in range(6):
        table = booth.vote("ann", table.held, "skip", {}, None)
    assert table.current is None and "No pair is ready" in booth.html(table) and table.note.startswith("6 of 6")


@pytest.mark.parametrize("said", ["a", "", "LEFT"])
def test_votes_that_are_none_are_refused(demo, said):
    booth = Booth(demo)
    with pytest.raises(UserError, match="A vote is one of left, tie, right, skip"):
        booth.vote("ann", booth.deal("ann", "").held, said, {}, 1.0)


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\nb", None])
def test_voters_have_names(name):
    with pytest.raises(UserError, match="1 to 60 characters"):
        voter_of(name)


def test_rollouts_can_be_voted_on(tmp_path):
    folder = tmp_path / "drawn"
    folder.mkdir()
    rows = []
    for i in range(3):
        for side in "ab":
            Image.new("RGB", (8, 8), (80 * i, 0, 200 if side == "a" else 0)).save(folder / f"{i}-{side}.png")
        rows.append({"prompt": f"p{i}", "a_seed": 2 * i, "b_seed": 2 * i + 1, "choice": "", "a": f"{i}-a.png",
                     "b": f"{i}-b.png"})
    with (folder / "votes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    book = VoteDatabase(tmp_path / "book")
    matchups = list(drawn_matchups(folder, book, set()))
    assert [(c.prompt, c.a.seed, c.b.seed) for c in matchups] == [("p0", 0, 1), ("p1", 2, 3), ("p2", 4, 5)]
    assert list(drawn_matchups(folder, book, {c.id for c in matchups})) == []
    (folder / "1-a.png").unlink()
    with pytest.raises(UserError, match="1-a.png: there is no image file"):
        list(drawn_matchups(folder, VoteDatabase(tmp_path / "other"), set()))
    with pytest.raises(UserError, match="has no votes.csv"):
        list(drawn_matchups(tmp_path, book, set()))


def test_a_pool_that_fails_says_why(demo, monkeypatch):
    def fail(*arguments):
        raise UserError("plain: memory did not suffice")

    monkeypatch.setattr(PairQueue, "file_of", fail)
    pool = PairQueue(demo.model_worker, VoteDatabase(demo.settings.folder / "new"), demo.recipe(), 3)
    pool.start()
    pool.join(30)
    assert pool.problem == "No more pairs are generated: plain: memory did not suffice"


def test_anchors_are_planted_dealt_in_their_share_and_shown_with_the_fair_ranking(demo, settings):
    assert not any(matchup.is_anchor for matchup in demo.book.matchups())
    planted = Demo(replace(settings, folder=settings.folder / "anchors", anchors=0.3))
    planted.pool.start()
    planted.pool.join(60)
    assert planted.pool.problem == ""
    anchors = [matchup for matchup in planted.book.matchups() if matchup.is_anchor]
    assert len(anchors) == 2 and all((planted.book.media / each.b.file).is_file() for each in anchors)
    booth, seen = Booth(planted), []
    table = booth.deal("ann", "")
    while table.current:
        assert "spoilt" not in booth.html(table) and "anchor" not in booth.html(table).replace(table.held, "")
        seen.append(table.current.matchup.id)
        whole = table.current.matchup.is_anchor and table.current.on_left == "b"
        table = booth.vote("ann", table.held, "right" if whole else "left", {}, 1.0)
    assert sum(number.startswith("anchor-") for number in seen) >= 2 and table.note.startswith("6 of 6")
    [record] = fair_board(planted.book).records
    assert record.obvious == (record.obvious[1], record.obvious[1]) and record.obvious[1] >= 1
    html = board_html(planted.book, "overall")
    assert "Fair ranking" in html and record.name in html


def test_the_pairs_style_is_measured_ahead(demo):
    assert unmeasured(demo.book) == [] and len(demo.book.looks()) == 12


def test_of_three_models_all_meet(folders, settings, tmp_path):
    third = str(write_folder(tmp_path / "made" / "third", 140))
    three = Demo(replace(settings, models=folders | {"third": third}, folder=settings.folder / "three"))
    three.pool.start()
    three.pool.join(60)
    booth = Booth(three)
    table, met = booth.deal("ann", ""), []
    for _ in range(3):
        met.append(frozenset((table.current.matchup.a.model, table.current.matchup.b.model)))
        table = booth.vote("ann", table.held, "tie", {}, 1.0)
    assert len(set(met)) == 3
