"""Anchors: planted in their share, counted for voters and for nothing else."""

import numpy as np
import pytest
from PIL import Image

from tests.votes.test_book import fill
from visalign.data.rows import hashed_user
from visalign.evaluators.style import style_of
from visalign.media.answers import Answer
from visalign.media.samples import Sample, Video
from visalign.reports.votes import votes_page
from visalign.votes import Vote, VoteDatabase, export_votes, leaderboard
from visalign.votes.anchors import GAP, OBVIOUS, REPEAT, next_anchor, obvious_of, repeat_of, spoilt
from visalign.votes.fair import fair_board
from visalign.votes.voters import VoterRecord, drift_of, voter_records


@pytest.fixture
def book(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"), 40)
    for matchup in book.matchups()[:8]:
        book.add(obvious_of(matchup, f"spoilt-{matchup.a.file}"))
    return book


def test_one_ballot_in_five_is_an_anchor_and_both_kinds_take_turns(book):
    shown = []
    for _ in range(40):
        matchup = next_anchor(book, "ann", 0.2) or book.open_for("ann", 1)[0]
        shown.append(matchup.id)
        book.vote(Vote(matchup.id, "ann", "a", "a"))
    anchors = [number for number in shown if number.startswith("anchor-")]
    assert len(anchors) == 8 and len(set(shown)) == 40
    assert [number.startswith(OBVIOUS) for number in anchors] == [True, False] * 4
    again = next(number for number in anchors if number.startswith(REPEAT))
    assert shown.index(again) - shown.index(again.removeprefix(REPEAT)) >= GAP


def test_what_a_page_holds_counts_for_the_share(book):
    for i in range(7):  # 1 of 8 is under 20 %, 2 of 9 are above
        book.vote(Vote(f"c{i}", "ann", "a", "a"))
    first = next_anchor(book, "ann", 0.2)
    assert first.id == OBVIOUS + "c0" and next_anchor(book, "ann", 0.2, [first.id]) is None
    assert next_anchor(book, "ann", 0.0) is None and next_anchor(book, "new", 0.2) is None


def test_anchors_count_for_no_model_and_are_not_exported(book, tmp_path):
    for i in range(4):
        book.vote(Vote(f"c{i}", "ann", "ab"[i % 2], "a"))
    before = leaderboard(book), export_votes(book, tmp_path / "before").comparisons.read_text()
    for number in (OBVIOUS + "c0", OBVIOUS + "c1"):
        book.vote(Vote(number, "ann", "a", "b"))
    book.add(repeat_of(book.matchup("c2")))
    book.vote(Vote(REPEAT + "c2", "ann", "a", "b"))
    after = leaderboard(book), export_votes(book, tmp_path / "after").comparisons.read_text()
    assert before[0].wins.tolist() == after[0].wins.tolist() and after[0].votes == 4 and before[1] == after[1]
    assert book.progress("ann") == (4, 40) and "spoilt" not in after[0].models
    [record] = fair_board(book).records
    assert (record.name, record.votes, record.obvious, record.repeats) == (hashed_user("ann"), 4, (2, 2), (1, 1))
    page = votes_page(after[0], fair_board(book)).decode()
    assert "anchors as expected" in page and "2 of 2" in page


def test_reliability_by_hand():
    """9 of 10 anchors: Clopper and Pearson's interval is [0.555, 0.997]."""
    record = VoterRecord("user-x", 40, (5, 5), (4, 5), 0.5)
    assert record.reliable == pytest.approx((0.9, 0.55498, 0.99747), abs=1e-4)
    assert "anchors 9 of 10, 90 % [55, 100], obvious 5 of 5, repeats 4 of 5" in record.in_words()
    assert VoterRecord("user-x", 4, (0, 0), (0, 0), None).reliable is None


def test_a_voter_who_contradicts_himself_is_told_and_skips_are_not_counted():
    votes = [Vote("c0", "ann", "a", "a"), Vote("c1", "ann", "tie", "a"), Vote("c2", "ann", "skip", "a"),
             Vote(REPEAT + "c0", "ann", "b", "a"), Vote(REPEAT + "c1", "ann", "tie", "a"),
             Vote(REPEAT + "c2", "ann", "a", "a"), Vote(OBVIOUS + "c0", "ann", "b", "a"),
             Vote(OBVIOUS + "c1", "ann", "skip", "a"), Vote("c0", "bob", "b", "b")]
    ann, bob = voter_records(votes, {})
    assert (ann.votes, ann.repeats, ann.obvious) == (2, (1, 2), (0, 1)) and "ann" not in ann.in_words()
    assert (bob.votes, bob.left, bob.reliable, bob.tau) == (1, 1.0, None, None)


def test_a_voter_who_tires_drifts_and_a_steady_one_does_not():
    rng = np.random.default_rng(0)
    tired = np.linspace(0.9, 0.2, 30) + rng.normal(0, 0.1, 30)
    votes = [Vote(f"c{i}", voter, "a", "a") for voter in ("tired", "steady") for i in range(30)]
    found = {record.name: record for record in voter_records(votes, {"tired": tired.tolist(),
                                                                      "steady": rng.random(30).tolist()})}
    assert found[hashed_user("tired")].drifts and found[hashed_user("tired")].tau < 0
    assert "agrees less with the ranking as votes go on" in found[hashed_user("tired")].in_words()
    assert not found[hashed_user("steady")].drifts
    # tau of 10 rising values is 1 and its p 2 / 10!, times the two voters tested
    records = voter_records(votes, {"tired": list(range(10)), "steady": list(range(10))})
    assert records[0].tau == pytest.approx(1) and records[0].p == pytest.approx(2 * 2 / 3628800)
    assert drift_of([0.1] * 9) is None and drift_of([0.5] * 20) is None


def test_what_is_spoilt_is_plainly_worse():
    ramp = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    image = Image.fromarray(ramp)
    worse = spoilt(image)
    assert worse.size == (64, 64) and style_of(Sample("", worse))[6] > 5 * style_of(Sample("", image))[6]
    video = spoilt(Video([image] * 3, 8.0))
    assert len(video.frames) == 3 and video.fps == 8.0
    text = Answer("one two three four five six seven eight")
    assert spoilt(text) != text and sorted(spoilt(text).split()) == sorted(text.split())
