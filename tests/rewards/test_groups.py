"""Groups of users found by EM: the chapter's number, both steps, who is served, new users, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings, RewardConfig
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.objectives.reward_model import Comparison, RewardModelLoss
from visalign.rewards import load_reward
from visalign.rewards.joint.groups import TasteGroups, UserFits
from visalign.rewards.joint.heads import NOBODY, KnownUsers
from visalign.rewards.joint.persons import Persons
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.storage.hashed_users import hashed_user

BACKBONE = SimpleNamespace(features=5, prompt=slice(1, 4))
ANN, BOB = hashed_user("ann"), hashed_user("bob")


def head(users=3, members=1, dimensions=1, pairs=None, **settings):
    torch.manual_seed(0)
    names = tuple(f"d{i}" for i in range(dimensions))
    whole = JointSettings(dimensions=names, video_only=(), members=members, width=8, groups=settings)
    users = KnownUsers(tuple(f"u{i}" for i in range(users)), users, tuple(pairs or [4] * users))
    return TasteGroups.of(whole, BACKBONE, users)


def settled(found, fit):
    """F [U, E, K] of a head."""
    found.fits.fit.copy_(torch.tensor(fit))
    return found.eval()


def test_the_responsibility_of_the_chapter():
    """Sums of log s(m) of -.440 and -1.787."""
    fits = UserFits(torch.tensor([1]), 1, 2, 0.5)
    fits.fit[0, 0] = torch.tensor([-0.440, -1.787])
    assert fits.shares()[0, 0, 0].item() == pytest.approx(0.793663, abs=1e-4)  # of sums that are rounded
    of_four_pairs = UserFits(torch.tensor([4]), 1, 2, 0.5)
    of_four_pairs.fit[0, 0] = torch.tensor([-0.110, -0.44675])  # means whose sums over four pairs are the same
    assert of_four_pairs.shares()[0, 0, 0].item() == pytest.approx(0.793663, abs=1e-4)  # of sums that are rounded


def test_what_a_label_cost_is_a_running_mean_of_each_user_s_own_pairs():
    fits = UserFits(torch.tensor([3, 2]), 1, 2, 0.75)
    users = torch.tensor([0, 0, 1, NOBODY, 0])
    said = torch.tensor([[-1.0, -2.0], [-3.0, -2.0], [-5.0, -6.0], [9.0, 9.0], [float("nan"), -1.0]])[:, None]
    fits.see(users, said)
    assert fits.fit[:, 0].tolist() == [[-2, -2], [-5, -6]]
    fits.see(torch.tensor([1]), torch.tensor([[[-1.0, -2.0]]]))
    assert fits.fit[:, 0].tolist() == [[-2, -2], [-4, -5]]  # 0.75 of what it was


def test_while_it_learns_it_gives_all_groups_and_afterwards_the_user_s():
    found, features = head(members=2), torch.randn(4, 1, 5)
    user = torch.tensor([0, 1, NOBODY, 4])  # the last is the second group alone
    assert found.train()(features, user).shape == (4, 4, 1)
    settled(found, [[[-1.0, -100.0]] * 2, [[-100.0, -1.0]] * 2, [[-100.0, -1.0]] * 2])
    everything = found.each(features).unflatten(1, (2, 2))
    given = found(features, user)
    torch.testing.assert_close(given[0], everything[0, :, 0])
    torch.testing.assert_close(given[1], everything[1, :, 1])
    torch.testing.assert_close(given[2], everything[2, :, 0] / 3 + everything[2, :, 1] * 2 / 3)
    torch.testing.assert_close(given[3], everything[3, :, 1])


def test_the_filter_gives_each_pair_its_user_s_shares_after_having_seen_it():
    found = head(users=2, pairs=[2, 2], memory=0.0)
    losses = torch.tensor([[[0.1], [1.1]], [[0.3], [0.9]], [[2.0], [0.5]]])  # pairs, groups, dimensions
    [weigh] = found.filters({"user": torch.tensor([0, 0, 1] * 2)}, lambda rows: rows)
    weight = weigh(losses)
    first, second = torch.tensor([-0.4, -2.0]).softmax(0), torch.tensor([-4.0, -1.0]).softmax(0)  # sums over two pairs
    torch.testing.assert_close(weight, torch.stack([first, first, second]))


def test_two_opposite_tastes_of_80_and_20_percent_are_told_apart_and_both_are_served():
    """Ten users, eight of whom prefer more of the first feature and two less; one reward serves the eight."""
    torch.manual_seed(1)
    found = head(users=10, pairs=[40] * 10).train()
    single = head(users=10, pairs=[40] * 10).each  # its first group alone is a plain reward
    users = torch.arange(10).repeat_interleave(40)
    a, b = torch.randn(400, 1, 5), torch.randn(400, 1, 5)
    likes = torch.where(users < 8, 1.0, -1.0)
    outcome = (likes * (a - b)[:, 0, 0] > 0).float()[:, None]
    gap = torch.full_like(outcome, float("nan"))
    loss = RewardModelLoss()
    for network in (found, single):
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for step in range(80):
            rows = torch.randperm(400, generator=torch.Generator().manual_seed(step))[:40]
            features, user = torch.cat([a[rows], b[rows]]), users[rows].repeat(2)
            rewards = found(features, user) if network is found else single(features)[:, :1]
            filters = found.filters({"user": user}, lambda rows: rows) if network is found else ()
            batch = Comparison(*rewards.chunk(2), outcome[rows], torch.ones(40), gap[rows], gap[rows], filters)
            optimizer.zero_grad()
            loss(batch).loss.backward()
            optimizer.step()
    found.eval()
    shares = found.fits.shares()[:, 0]
    own = shares.argmax(1)
    assert own[8] == own[9] and (own[:8] != own[9]).sum() >= 7
    x, y = torch.randn(400, 1, 5), torch.randn(400, 1, 5)
    truth = (x - y)[:, 0, 0] > 0
    with torch.no_grad():
        for place, taste in ((int((own != own[9]).nonzero()[0]), truth), (9, ~truth)):
            whose = torch.full((400,), place)
            assert ((found(x, whose) > found(y, whose)).flatten() == taste).float().mean() > 0.75
        assert ((single(x)[:, 0] > single(y)[:, 0]).flatten() == ~truth).float().mean() < 0.3  # by one for everybody
        new = found.fitted(found.each(x[:4]), found.each(y[:4]), (~truth[:4]).float()[:, None])
    assert new[0].argmax() == own[9] and new[0].max() > 0.8
    assert found.about()["groups"]["entropy"] < 0.2 and len(found.told()) == 2


def test_a_new_user_without_labels_is_the_population():
    found = settled(head(), [[[-1.0, -3.0]], [[-2.0, -2.0]], [[-3.0, -1.0]]])
    a, b, none = torch.randn(2, 2, 1), torch.randn(2, 2, 1), torch.full((2, 1), 0.5)
    torch.testing.assert_close(found.fitted(a, b, none), found.population())


def test_a_saved_reward_scores_for_a_user_a_group_or_nobody(tmp_path):
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, groups={"count": 2})
    torch.manual_seed(3)
    network = build_network(settings, users=KnownUsers((ANN, BOB), 2, (1, 1))).eval()
    network.heads.fits.fit.copy_(torch.tensor([[[0.0, -50.0]], [[-50.0, 0.0]]]))
    save_reward(tmp_path / "r", network, settings, {"mean": [0.0], "std": [1.0]}, {})
    sample = [Sample("a thing", Image.new("RGB", (64, 64), "red"))]

    def value(**whose):
        return load_reward({"kind": "joint", "source": str(tmp_path / "r"), **whose}).score(sample).values.item()

    assert value(user="ann") == pytest.approx(value(prototype=0)) and value(user="bob") == pytest.approx(
        value(prototype=1))
    assert value() == pytest.approx((value(prototype=0) + value(prototype=1)) / 2)
    assert abs(value(prototype=0) - value(prototype=1)) > 1e-3
    with pytest.raises(UserError, match="has the prototypes 0 to 1, not 2"):
        value(prototype=2)
    with pytest.raises(UserError, match="knows no user eve"):
        value(user="eve")


@pytest.mark.parametrize("train, objective, said", [
    ({}, {}, "train.bootstrap is True, and model.groups decides"),
    ({"bootstrap": False}, {"peer_filter": 0.2}, "objective.peer_filter is 0.2, and model.groups decides")])
def test_what_else_chooses_pairs_is_refused(train, objective, said):
    with pytest.raises(ValueError, match=said):
        RewardConfig.model_validate({"data": {"path": "x"}, "model": {"groups": {}}, "train": train,
                                     "objective": {"name": "preference"} | objective})


def test_a_person_is_asked_what_tells_of_which_group_they_are(tmp_path):
    """Who has answered nothing is of the population, who answers as a group does is of it, and a name is known."""
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, groups={"count": 2})
    network = build_network(settings, users=KnownUsers((ANN, BOB), 2, (20, 20))).eval()
    network.heads.fits.fit.copy_(torch.tensor([[[-0.2, -1.0]], [[-1.0, -0.2]]]))
    save_reward(tmp_path / "r", network, settings, {"mean": [0.0], "std": [1.0]}, {})
    persons = Persons(load_reward({"kind": "joint", "source": str(tmp_path / "r")}), "demo: --ask-by x")
    features = torch.randn(6, 1, network.backbone.features, generator=torch.Generator().manual_seed(0))
    asked = [(features[0], features[1]), (features[2], features[3])]
    margins, weights = persons.margins("somebody", [], asked)
    rewards = network.heads.each(features).detach()  # [6, K, 1]
    assert margins.shape == (2, 1, 2, 1) and weights.flatten().tolist() == pytest.approx([0.5, 0.5])
    assert torch.allclose(margins[:, 0, :, 0], (rewards[[0, 2]] - rewards[[1, 3]])[..., 0].T, atol=1e-6)
    first = rewards[4, :, 0] - rewards[5, :, 0]  # by how much each group prefers the first of the last two
    answer = (features[4], features[5], float(first[0] > first[1]))
    _, told = persons.margins("somebody", [answer] * 40, asked)
    likelihood = torch.nn.functional.logsigmoid(first if answer[2] else -first) * 40
    assert torch.allclose(told.flatten(), likelihood.softmax(0), atol=1e-4) and told[0] > 0.5
    _, named = persons.margins("ann", [], asked)
    assert torch.allclose(named.flatten(), torch.tensor([16.0, 0.0]).softmax(0), atol=1e-5)
