"""`visalign demo --ask-by REWARD`: pairs that tell most of a voter, as blind as the others."""

from dataclasses import replace

import pytest
import torch

from tests.demo.conftest import PROMPTS
from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.storage.hashed_users import hashed_user
from visalign_demo.context import Demo
from visalign_demo.vote_tab import Booth


@pytest.fixture
def asking(settings, tmp_path):
    joint = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, variational={"size": 4})
    torch.manual_seed(0)
    network = build_network(joint, users=KnownUsers((hashed_user("ann"), hashed_user("bob")), 2)).eval()
    save_reward(tmp_path / "reward", network, joint, {"mean": [0.0], "std": [1.0]}, {})
    made = Demo(replace(settings, ask_by=str(tmp_path / "reward")))
    made.pool.start()
    made.pool.join(120)
    assert made.pool.problem == ""
    return made


def test_every_other_pair_is_chosen_by_what_it_tells_and_all_come(asking, monkeypatch):
    asked, best = [], asking.questioner.best

    def counted(voter, among):
        found = best(voter, among)
        asked.append((voter, len(among), found.id))
        return found

    monkeypatch.setattr(asking.questioner, "best", counted)
    booth, seen = Booth(asking), []
    table = booth.deal("ann", "")
    assert table.upcoming.matchup.id == asked[0][2] and asked[0][:2] == ("ann", 5)
    while table.current:
        html = booth.html(table)
        assert not [word for word in ("plain", "tuned", "user-", "reward", "variance") if word in html]
        seen.append(table.current.matchup.id)
        table = booth.vote("ann", table.held, "left", {}, 1.0)
    assert sorted(seen) == sorted(matchup.id for matchup in asking.book.matchups()) and len(set(seen)) == 6
    assert [count for _, count, _ in asked] == [5, 3, 1]  # the second, the fourth, the sixth
    assert {matchup.prompt for matchup in asking.book.matchups()} == set(PROMPTS)


def test_a_reward_that_fails_stops_no_pair(settings, tmp_path, asking, monkeypatch):
    def fails(samples):
        raise RuntimeError("no memory")

    other = Demo(replace(settings, folder=settings.folder / "other", ask_by=asking.settings.ask_by))
    monkeypatch.setattr(other.questioner.persons, "features", fails)
    other.pool.start()
    other.pool.join(60)
    assert other.pool.problem == "" and len(other.book.matchups()) == 6
    table = Booth(other).deal("ann", "")
    assert table.current and table.upcoming


@pytest.mark.parametrize("given, word", [
    ("tiny-reward", "demo: --ask-by tiny-reward: knows nobody's taste, so no pair tells it more of a person"),
    ("nowhere/reward", "nowhere/reward"),
])
def test_what_knows_nobody_is_refused_before_anything_is_made(settings, given, word):
    with pytest.raises(UserError, match=word):
        Demo(replace(settings, ask_by=given))
    assert not settings.folder.exists()
