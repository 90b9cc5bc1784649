"""Votes become data sets that the readers take."""

import pytest
from PIL import Image

from tests.votes.test_book import fill
from visalign.config import DataSettings
from visalign.data.annotations import read_annotations
from visalign.data.preferences import read_pairs
from visalign.data.rows import hashed_user
from visalign.data.seed_preferences import read_seed_preferences
from visalign.errors import UserError
from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase, export_votes
from visalign.votes.export import majority, majority_share


@pytest.fixture
def book(tmp_path):
    book = fill(VoteDatabase(tmp_path / "book"))
    for i in range(4):
        for side, colour in (("a", "red"), ("b", "blue")):
            Image.new("RGB", (8, 8), colour).save(book.media / f"{i}{side}.png")
    return book


@pytest.mark.parametrize("choices, won", [
    (["a", "a", "b"], "a"), (["a", "b"], "tie"), (["tie", "tie", "a"], "tie"), (["tie", "b"], "b"),
    (["skip", None], None), ([], None), (["skip", "b"], "b")])
def test_majority(choices, won):
    assert majority(choices) == won


def test_training_reads_what_people_preferred(book, tmp_path):
    for i, choice in enumerate(("a", "b", "tie", "skip")):
        book.vote(Vote(f"c{i}", "ann", choice, "b"))
    done = export_votes(book, tmp_path / "out")
    assert (done.decided, done.ties, done.skipped) == (2, 1, 1)
    pairs = list(read_pairs(DataSettings(path=str(done.comparisons))))
    assert [pair.prompt for pair in pairs] == ["prompt 0", "prompt 1"]
    colours = [tuple(media.getpixel((0, 0)) for media in pair.media()) for pair in pairs]
    assert colours == [((255, 0, 0), (0, 0, 255)), ((0, 0, 255), (255, 0, 0))]


def test_dimensions_reach_the_reward_s_reader(book, tmp_path):
    book.vote(Vote("c0", "ann", "a", "b", {"VQ": "b", "TA": "tie"}))
    book.vote(Vote("c1", "ann", "skip", "b", {"VQ": "a"}))
    done = export_votes(book, tmp_path / "out")
    first, second = read_annotations(str(done.comparisons), ("Overall", "VQ", "TA"))
    assert first.outcome == {"Overall": 1.0, "VQ": 0.0, "TA": 0.5}
    assert second.outcome == {"VQ": 1.0}


def test_rollouts_become_d3po_s_table(tmp_path):
    book = VoteDatabase(tmp_path / "book")
    for i in range(3):
        book.add(Matchup("a cat", MatchupSide("m", 2 * i, f"{i}a.png"), MatchupSide("m", 2 * i + 1, f"{i}b.png"),
                         {"rollout": "/some/where/drawn"}, f"c{i}"))
    for i, choice in enumerate(("b", "a", "tie")):
        book.vote(Vote(f"c{i}", "ann", choice, "a"))
    [table] = export_votes(book, tmp_path / "out").rollouts
    assert table.name == "drawn.csv"
    assert [(v.prompt, v.chosen_seed, v.rejected_seed) for v in read_seed_preferences(str(table))] == [
        ("a cat", 1, 0), ("a cat", 2, 3)]


def test_nothing_decided_is_nothing_to_export(book, tmp_path):
    book.vote(Vote("c0", "ann", "tie", "b"))
    with pytest.raises(UserError, match="no matchup is decided yet"):
        export_votes(book, tmp_path / "out")


def test_each_voter_s_rows_name_him_by_a_hash_alone(book, tmp_path):
    for voter, choice in (("ann", "a"), ("bob", "b")):
        book.vote(Vote("c0", voter, choice, "b"))
    book.vote(Vote("c1", "ann", "b", "b"))
    done = export_votes(book, tmp_path / "out", per_voter=True)
    text = done.comparisons.read_text()
    assert "ann" not in text and "bob" not in text
    ann, bob, again = read_annotations(str(done.comparisons), ("Overall",))
    assert [each.outcome["Overall"] for each in (ann, bob, again)] == [1.0, 0.0, 0.0]
    assert ann.user == again.user != bob.user and ann.user == hashed_user("ann")
    pairs = read_pairs(DataSettings(path=str(done.comparisons)))
    assert [pair.user for pair in pairs] == [ann.user, bob.user, ann.user]
    assert "user" not in export_votes(book, tmp_path / "majority").comparisons.read_text()


@pytest.mark.parametrize("choices, share", [
    (["a", "a", "b"], 2 / 3), (["b", "b", "tie", "a"], 0.625), (["a", "skip"], 1), (["a", "b"], None), (["tie"], None),
    ([None], None)])
def test_majority_share(choices, share):
    assert majority_share(choices) == (None if share is None else pytest.approx(share))


def test_how_many_agreed_becomes_the_chance_of_the_label(book, tmp_path):
    for i, choices in enumerate((("a", "a", "b"), ("b", "b", "b"), ("tie", "tie", "a"))):
        for voter, choice in zip(("ann", "ben", "cem"), choices, strict=True):
            book.vote(Vote(f"c{i}", voter, choice, "b"))
    done = {chance: export_votes(book, tmp_path / str(chance), chance=chance) for chance in (False, True)}
    read = {chance: list(read_pairs(DataSettings(path=str(each.comparisons)))) for chance, each in done.items()}
    assert [pair.chance for pair in read[True]] == pytest.approx([2 / 3, 1])
    assert [pair.chance for pair in read[False]] == [1, 1]
    with pytest.raises(UserError, match="choose one of them"):
        export_votes(book, tmp_path / "both", per_voter=True, chance=True)
