"""The fair ranking of a book of votes: what is planted is found, and what cannot be said is said."""

import numpy as np
import pytest
import scipy
from PIL import Image

from visalign.evaluators.ranking import ELO
from visalign.media.samples import Video
from visalign.media.video_files import write_media
from visalign.reports.votes import votes_page
from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase, leaderboard
from visalign.votes.board import LEAST_SHARED
from visalign.votes.fair import LEFT, fair_board
from visalign.votes.style import CONTROLS, look_of, measure_style, unmeasured

MODELS = {"dull": 0.5, "plain": 0.0, "bright": -0.5}
"""Strengths in log-odds. The weakest is the brightest."""
LIGHT = {"dull": 0.3, "plain": 0.5, "bright": 0.7}
TASTE, SIDE = 1.0, 0.4
"""What one standard deviation of luminance adds to the log-odds, and the left side."""


def voted(folder, votes=1500, voters=30, seed=0):
    """A book of simulated votes, whose looks and a reward's scores are planted without any file."""
    rng, book = np.random.default_rng(seed), VoteDatabase(folder)
    book._connection().execute("PRAGMA synchronous=OFF")  # nothing here outlives the test
    names, light = list(MODELS), {}
    for i in range(votes):
        a, b = rng.choice(names, 2, replace=False)
        files = [f"{i}a.png", f"{i}b.png"]
        book.add(Matchup(f"p{i}", MatchupSide(a, i, files[0]), MatchupSide(b, i, files[1]), {}, f"c{i}"))
        light |= {file: LIGHT[model] + rng.normal(0, 0.15) for file, model in zip(files, (a, b), strict=True)}
    spread = np.std(list(light.values()))
    for i, matchup in enumerate(book.matchups()):
        a, b, on_left = matchup.a, matchup.b, str(rng.choice(["a", "b"]))
        eta = (MODELS[a.model] - MODELS[b.model] + TASTE * (light[a.file] - light[b.file]) / spread
               + SIDE * (1 if on_left == "a" else -1))
        said = rng.choice(["a", "b", "tie"], p=scipy.special.softmax([eta / 2, -eta / 2, np.log(0.5)]))
        book.vote(Vote(matchup.id, f"voter {rng.integers(voters)}", str(said), on_left, time=float(i)))
    for file, value in light.items():
        book.add_look(file, {"luminance": value, "saturation": float(rng.normal()), "sharpness": 1.0})
    return book


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    return voted(tmp_path_factory.mktemp("fair") / "book")


def test_planted_strengths_side_and_style_are_found_where_the_plain_ranking_is_wrong(book):
    fair = fair_board(book)
    assert fair.models == ["dull", "plain", "bright"] and fair.voters == 30
    assert max(fair.plain, key=lambda name: fair.plain[name].value) == "bright"
    for name, strength in MODELS.items():
        assert fair.fair[name].low < 1000 + ELO * strength < fair.fair[name].high
    assert set(fair.effects) == {LEFT, "luminance", "saturation"}
    assert fair.effects["luminance"].low < np.exp(TASTE) < fair.effects["luminance"].high
    assert fair.effects[LEFT].low < np.exp(SIDE) < fair.effects[LEFT].high
    assert fair.effects["saturation"].low < 1 < fair.effects["saturation"].high
    assert fair.tie.low < 0.5 < fair.tie.high
    assert fair.notes == ("sharpness is the same in all media, so it is not taken out",)


def test_a_reward_that_is_style_alone_agrees_until_style_is_taken_out(tmp_path):
    book = voted(tmp_path / "book", 400)
    rng, looks = np.random.default_rng(1), book.looks()
    book.add_scores("brightness", {file: look["luminance"] + rng.normal(0, 0.05) for file, look in looks.items()})
    book.add_scores("unseen", {"0a.png": 1.0})
    [reward] = fair_board(book).rewards
    assert reward.reward == "brightness" and reward.votes == 400
    assert reward.alone.low > 1.2 and reward.beside.low < 1 < reward.beside.high
    [plain] = fair_board(book, style=False).rewards
    assert plain.beside is None and plain.alone == reward.alone


def test_a_reward_that_is_a_statistic_cannot_be_told_from_it(book):
    book.add_scores("luma", {file: look["luminance"] for file, look in book.looks().items()})
    fair = fair_board(book)
    assert any(note.startswith("nothing can be said of luma beside luma, left side, luminance") and "cannot be told"
               in note for note in fair.notes) and fair.rewards == []


def test_without_style_only_the_side_is_taken_out(book):
    fair = fair_board(book, style=False)
    assert list(fair.effects) == [LEFT]
    assert [fair.fair[name].value for name in MODELS] == pytest.approx([fair.plain[name].value for name in MODELS],
                                                                     abs=40)


def small(folder, choices, voters=("ann", "bob"), models=("a", "b")):
    book = VoteDatabase(folder)
    for i, choice in enumerate(choices):
        book.add(Matchup(f"p{i}", MatchupSide(models[0], i, f"{i}a.png"), MatchupSide(models[1], i, f"{i}b.png"), {},
                         f"c{i}"))
        book.vote(Vote(f"c{i}", voters[i % len(voters)], choice, "ab"[i // 2 % 2]))
    return book


def test_one_voter_has_no_interval_and_it_is_said(tmp_path):
    fair = fair_board(small(tmp_path, "aabbabab", ("ann",)), style=False)
    assert "all votes are one voter's, so there is no interval that would hold for other people" in fair.notes
    assert "nobody voted a tie, so there is no parameter of ties" in fair.notes and fair.tie is None
    assert np.isinf(fair.fair["a"].high) and np.isfinite(fair.as_independent["a"].high)


def test_votes_on_one_prompt_have_no_interval_and_many_people_on_few_prompts_a_wide_one(tmp_path):
    def asked(folder, prompts):
        rng, book = np.random.default_rng(0), VoteDatabase(folder)
        book._connection().execute("PRAGMA synchronous=OFF")
        for i in range(160):
            luck = (-0.9, 0.9, -0.3, 0.3)[i % prompts]
            book.add(Matchup(f"p{i % prompts}", MatchupSide("a", i, f"{i}a.png"), MatchupSide("b", i, f"{i}b.png"), {},
                             f"c{i}"))
            won = rng.random() < scipy.special.expit(luck)
            book.vote(Vote(f"c{i}", f"voter {i // 4 % 20}", "a" if won else "b", str(rng.choice(["a", "b"]))))
        return book

    one, four = (asked(tmp_path / str(prompts), prompts) for prompts in (1, 4))
    fair = fair_board(one, style=False)
    assert "all votes are on one prompt, so there is no interval that would hold for other prompts" in fair.notes
    assert np.isinf(fair.fair["a"].high) and np.isinf(leaderboard(one).elo["a"].high)
    fair, plain = fair_board(four, style=False), leaderboard(four)
    assert fair.notes == ("nobody voted a tie, so there is no parameter of ties",)
    for found in (fair.fair["a"], plain.elo["a"]):
        assert found.high - found.low > 1.7 * (fair.as_independent["a"].high - fair.as_independent["a"].low)


@pytest.mark.parametrize("book, said", [
    (lambda folder: VoteDatabase(folder), "there is no vote between two models yet, so there is no ranking"),
    (lambda folder: small(folder, "ab", models=("a", "a")), "there is no vote between two models yet"),
    (lambda folder: small(folder, "aaaa"), "between these groups one side won every comparison, or there was none"),
    (lambda folder: small(folder, "aabb"), "they foretell every one of 4 votes between 2 models")])
def test_what_cannot_be_ranked_is_one_sentence_and_no_number(tmp_path, book, said):
    fair = fair_board(book(tmp_path))
    assert any(said in note for note in fair.notes) and fair.models == [] and fair.fair == {} and fair.tie is None
    assert b"<table" not in votes_page(leaderboard(VoteDatabase(tmp_path / "empty")), fair_board(
        VoteDatabase(tmp_path / "empty")))


def test_style_that_is_not_measured_is_said(tmp_path):
    book = small(tmp_path, "aabbabab")
    book.add_look("0a.png", {"luminance": 0.5})
    fair = fair_board(book)
    assert "the style of 15 of 16 media is not measured yet, so style is not taken out" in fair.notes
    assert list(fair.effects) == [LEFT] and LEAST_SHARED == 5


def test_media_are_measured_once(tmp_path):
    book = small(tmp_path, "ab")
    for i in range(2):
        for side, shade in (("a", 20), ("b", 200)):
            Image.new("RGB", (16, 16), (shade, shade, shade)).save(book.media / f"{i}{side}.png")
    assert measure_style(book) == 4 and measure_style(book) == 0 and unmeasured(book) == []
    look = book.looks()["0b.png"]
    assert look["luminance"] == pytest.approx(200 / 255) and look["saturation"] == 0
    assert set(look) == set(CONTROLS["image"])


def test_motion_is_measured_of_videos(tmp_path):
    shades = [Image.new("RGB", (16, 16), (20 * i, 20 * i, 20 * i)) for i in range(5)]
    assert look_of(Video(shades, 8.0))["motion"] == pytest.approx(20 / 255, abs=1e-6)
    assert look_of(Video(shades[:1], 8.0))["motion"] == 0 and "motion" not in look_of(shades[0])
    assert write_media(shades[0], tmp_path / "x").suffix == ".png"


def test_the_page_names_nobody(book):
    page = votes_page(leaderboard(book), fair_board(book)).decode()
    assert "voter 1" not in page and "user-" in page and "with one sd more luminance" in page and "<svg" in page
    assert "anchors as expected" not in page and "None was shown an anchor" in page
