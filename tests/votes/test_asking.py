"""Pairs that tell most of a voter: which they are, when they come, and that no model is forgotten for them."""

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.rewards import build_reward
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.persons import Persons
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.storage.hashed_users import hashed_user
from visalign.votes import Matchup, MatchupSide, Vote, VoteDatabase
from visalign.votes.asking import Questioner
from visalign.votes.choosing import next_matchup

SHADES = {"black": (0, 0, 0), "white": (255, 255, 255), "red": (220, 30, 30), "grey": (128, 128, 128)}
HEADS = {"variational": {"size": 4}, "ideal_points": {"prototypes": 2, "size": 4}}


def reward_of(folder, head):
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=2, **{head: HEADS[head]})
    torch.manual_seed(2)
    network = build_network(settings, users=KnownUsers((hashed_user("ann"), hashed_user("bob")), 2)).eval()
    save_reward(folder, network, settings, {"mean": [0.0], "std": [1.0]}, {})
    return build_reward(str(folder))


@pytest.fixture
def book(tmp_path):
    """Three models with three matchups of every two; those of p0 show one image twice, which tells nothing."""
    book, names = VoteDatabase(tmp_path / "book"), list(SHADES)
    for name, shade in SHADES.items():
        Image.new("RGB", (64, 64), shade).save(book.media / f"{name}.png")
    for k, (a, b) in enumerate((("x", "y"), ("x", "z"), ("y", "z"))):
        for i in range(3):
            book.add(Matchup(f"p{i}", MatchupSide(a, i, f"{names[k]}.png"),
                             MatchupSide(b, i, f"{names[(k + i) % 4]}.png"), {}, f"{a}{b}{i}"))
    return book


@pytest.fixture(params=list(HEADS))
def questioner(book, tmp_path, request):
    found = Questioner(Persons(reward_of(tmp_path / "reward", request.param), "demo: --ask-by reward"), book)
    found.look()
    return found


def test_the_pair_on_which_people_disagree_most_comes_first(book, questioner):
    matchups = book.matchups()
    best = questioner.best("new", matchups)
    margins, weights = questioner.persons.margins("new", [], [questioner._seen[each.id] for each in matchups])
    weights = torch.full_like(margins, 1 / len(margins)) if weights is None else weights
    gain = (weights * (margins - (weights * margins).sum(0)).square()).sum(0).mean((0, 2))
    assert best == matchups[int(gain.argmax())]
    same = [each.id for each in matchups if each.a.file == each.b.file]
    assert len(same) == 3 and all(gain[k] < 1e-8 for k, each in enumerate(matchups) if each.id in same)
    assert questioner.best("new", [each for each in matchups if each.id in same[:1]]).id == same[0]
    assert questioner.best("new", []) is None


def test_votes_tell_who_it_is(book, questioner):
    asked = [questioner._seen[each.id] for each in book.matchups()[1:2]]
    before, _ = questioner.persons.margins("new", [], asked)
    known, weights = questioner.persons.margins("ann", [], asked)
    for choice in "ab":
        book.vote(Vote("xy1", choice, choice, "a"))
        book.vote(Vote("yz1", choice, "tie", "a"))
    seen = {matchup: questioner._seen[matchup] for matchup in ("xy1", "yz1")}
    a, b = (questioner.persons.margins("new", [(*seen["xy1"], won), (*seen["yz1"], 0.5)], asked) for won in (1.0, 0.0))
    if weights is None:  # draws follow what was said; a tie says nothing
        assert (a[0] - b[0]).abs().max() > 1e-5 and (a[0] - before).abs().max() > 1e-5
        only = questioner.persons.margins("new", [(*seen["xy1"], 1.0)], asked)[0]
        torch.testing.assert_close(only, a[0])
    else:  # prototypes stay, and their weights follow
        assert torch.equal(a[0], b[0]) and (a[1] - b[1]).abs().max() > 1e-5
        assert (weights - questioner.persons.margins("new", [], asked)[1]).abs().max() > 1e-3  # ann is known by name
        torch.testing.assert_close(a[1].sum(0), torch.ones_like(a[1][0]))


def test_every_other_ballot_is_chosen_so_and_what_was_not_looked_at_is_not(book, questioner, monkeypatch):
    asked = []
    monkeypatch.setattr(questioner, "best", lambda voter, among: asked.append([each.id for each in among]))
    held = []
    for _ in range(6):  # at the second the third model has fallen behind, which two of three open ones have
        held.append(next_matchup(book, "new", held, questioner=questioner).id)
    assert [len(among) for among in asked] == [6, 6, 4]  # the second, fourth and sixth ballot: what is open
    assert len(set(held)) == 6
    blind = Questioner(questioner.persons, book)
    assert blind.best("new", book.matchups()) is None
    assert next_matchup(book, "new", held[:1], questioner=blind) is not None


def test_a_model_that_fell_behind_comes_first_all_the_same(book, questioner):
    for voter in ("ann", "bob", "cem"):
        for i in range(3):
            book.vote(Vote(f"xy{i}", voter, "a", "a"))
    for held in ([], ["xz0"]):  # as without it, and on its own turn
        found = next_matchup(book, "new", held, questioner=questioner)
        assert "z" in (found.a.model, found.b.model)


def test_a_medium_that_cannot_be_read_is_never_chosen(book, questioner):
    (book.media / "broken.png").write_bytes(b"no image")
    book.add(Matchup("p", MatchupSide("x", 9, "broken.png"), MatchupSide("y", 9, "red.png"), {}, "broken"))
    questioner.look()
    assert questioner.best("new", [book.matchup("broken")]) is None
    assert questioner.best("new", [book.matchup("broken"), book.matchup("xy1")]).id == "xy1"


def test_a_reward_without_users_is_refused():
    with pytest.raises(UserError, match="demo: --ask-by tiny-reward: knows nobody's taste"):
        Persons(build_reward("tiny-reward"), "demo: --ask-by tiny-reward")
