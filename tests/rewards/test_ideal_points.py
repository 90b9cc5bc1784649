"""Ideal points: the chapter's numbers, users, nobody, new users, empty prototypes, folders and refusals."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.objectives.reward_model import RewardModelLoss
from visalign.rewards import load_reward
from visalign.rewards.joint.heads import KnownUsers
from visalign.rewards.joint.ideal_points import NOBODY, IdealPoints, norm_reward
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.storage.hashed_users import hashed_user

BACKBONE = SimpleNamespace(features=5, prompt=slice(1, 4))
ANN, BOB = hashed_user("ann"), hashed_user("bob")
RED = Image.new("RGB", (64, 64), "red")


def head(users=3, members=1, dimensions=1, **settings):
    torch.manual_seed(0)
    names = tuple(f"d{i}" for i in range(dimensions))
    whole = JointSettings(dimensions=names, video_only=(), members=members, width=8,
                          ideal_points={"prototypes": 2, "size": 2} | settings)
    return IdealPoints.of(whole, BACKBONE, KnownUsers(tuple(f"u{i}" for i in range(users)), users))


def item(user, where="row"):
    return SimpleNamespace(user=user, where=where)


def test_the_worked_out_margin_and_loss():
    w = torch.tensor([0.25, 0.75])[None, None, None]  # W = log w gives w
    prototypes = torch.tensor([[0.0, 0.0], [2.0, 0.0]])[:, None, None, None]
    x_a, x_b = (torch.tensor(x)[None, None, None] for x in ([1.0, 0.0], [1.0, 1.0]))
    found = head()
    a, b = (found.rewards(x, prototypes, w, torch.tensor([False])) for x in (x_a, x_b))
    assert (-a.item(), -b.item()) == pytest.approx((0.5, 1.118034))  # to (1.5, 0); squared, m would be 1.0
    assert (a - b).item() == pytest.approx(0.618034, abs=1e-6)
    assert RewardModelLoss().pair_loss(a - b, torch.ones(1), torch.ones(1)).item() == pytest.approx(0.431135, abs=1e-6)


def test_a_far_ideal_point_is_bradley_terry_along_a_line():
    far, x = torch.tensor([1e5, 0.0]), torch.tensor([[0.3, 0.2], [-0.5, 0.9]])
    a, b = norm_reward(x, far).double()
    assert (a - b).item() == pytest.approx(0.8, abs=1e-2)  # their distance along the line


def test_the_angle_has_a_learnt_scale_that_starts_at_its_published_value_and_ends_at_100():
    found = head(distance="angle").near
    one, other = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    assert found(one, other).item() == pytest.approx(math.cos(math.pi / 4) / 0.07, rel=1e-5)
    with torch.no_grad():
        found.log_scale += 5
    assert found(one, one).item() == pytest.approx(100)


def test_nobody_s_reward_is_the_mean_over_prototypes_weighted_by_the_population():
    found, features = head(users=4), torch.randn(2, 1, 5)
    places = [torch.full((2,), place) for place in (4, 5)]  # after four users: each prototype alone
    alone = torch.stack([found(features, place) for place in places], -1)
    expected = (alone * found.weights.softmax(-1).mean(0)).sum(-1)
    torch.testing.assert_close(found(features, torch.full((2,), NOBODY)), expected)
    assert found.collate([Sample("x", known={"user": "u2"}), Sample("x", known={"user": "?"}), Sample("x")])[
        "user"].tolist() == [2, NOBODY, NOBODY]


def test_prototypes_of_kind_b_follow_the_prompt_alone():
    found, features = head(kind="B"), torch.randn(1, 1, 5).repeat(2, 1, 1)
    features[1, 0, [0, 4]] += 1  # not of the prompt
    torch.testing.assert_close(*found.mapped(features)[1].unbind(1))
    features[1, 0, 2] += 1
    first, second = found.mapped(features)[1].unbind(1)
    assert (first - second).abs().max() > 1e-3


def test_every_user_member_and_dimension_learns_its_own():
    found = head(users=3, members=2, dimensions=2)
    found(torch.randn(2, 1, 5), torch.tensor([0, 2])).sum().backward()
    reached = found.weights.grad.abs().sum((1, 2, 3))
    assert reached[1] == 0 and (reached[[0, 2]] > 0).all() and found.weights.shape == (3, 2, 2, 2)


def test_a_new_user_without_labels_is_the_mean_one_and_four_pairs_say_who_it_is():
    found = head(users=2)
    with torch.no_grad():
        found.weights.copy_(torch.tensor([[4.0, -4.0], [-4.0, 4.0]])[:, None, None])
    points = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])[:, None, None, None].expand(-1, 4, -1, -1, -1)
    left, right = ((torch.tensor([[x, y] for y in (0.0, 1.0, 2.0, 3.0)])[:, None, None], points) for x in (-1.0, 1.0))
    before = [p.clone() for p in found.parameters()]
    nothing = found.fitted(left, right, torch.full((4, 1), float("nan")))
    torch.testing.assert_close(nothing.softmax(-1), found.population())
    first, second = (found.fitted(left, right, torch.full((4, 1), won)).softmax(-1)[0, 0, 0] for won in (1.0, 0.0))
    assert first > 0.7 and (first + second).item() == pytest.approx(1, abs=1e-4)  # opposite labels, opposite user
    torch.testing.assert_close(found.fitted(left, right, torch.full((4, 1), 0.5)).softmax(-1), found.population())
    assert all(torch.equal(p, old) and p.grad is None for p, old in zip(found.parameters(), before, strict=True))


def test_entropy_and_empty_prototypes_are_reported():
    found = head(users=2)
    with torch.no_grad():
        found.weights.copy_(torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()[:, None, None])
    found.weights.data[1, ..., 1] += 1e-3
    said = found.about()["prototypes"]
    # of (.25, .75): .562335 nats, of (.5, .5): .693147; as shares of log 2: .811278 and 1
    assert said["entropy"]["d0"] == pytest.approx((0.811278 + 1) / 2, abs=1e-4) and said["empty"] == {"d0": 1}
    assert any("1 of 2 prototypes" in line for line in found.told())


@pytest.mark.parametrize("kind", ["A", "B"])
def test_an_empty_prototype_gets_half_the_users_of_the_fullest_and_its_place(kind):
    found, features = head(users=5, reseed=10, kind=kind), torch.randn(5, 1, 5)
    with torch.no_grad():
        found.weights.copy_(torch.tensor([3.0, -3.0]).expand(5, 1, 1, 2))
    before, users = found(features, torch.arange(5)), torch.arange(5)
    found.after_step(9)
    assert torch.equal(found(features, users), before)
    found.after_step(10)
    assert found.weights[:, 0, 0].argmax(-1).tolist() == [0, 1, 0, 1, 0] and found.about()["prototypes"]["empty"] == {
        "d0": 0}
    assert (found(features, users) - before).abs().max() < 0.5 * before.abs().max()
    again = found.weights.clone()
    found.after_step(20)
    assert torch.equal(found.weights, again)  # nothing is empty any more


def test_who_is_learnt_from_and_who_has_too_few(capsys):
    settings = JointSettings(ideal_points={"least": 2})
    items = [item("a"), item("b"), item("a"), item(None), item("b"), item("c")]
    kept, users = IdealPoints.learns_from(items, settings, "x.jsonl")
    assert [each.user for each in kept] == ["a", "b", "a", "b"] and users == KnownUsers(("a", "b"), 2)
    assert "2 of 6 pairs are left out, 1 of nobody" in capsys.readouterr().err
    with pytest.raises(UserError, match="none of 2 training pairs says whose it is.*column user"):
        IdealPoints.learns_from([item(None)] * 2, settings, "x.jsonl")
    with pytest.raises(UserError, match=r"1 of 2 users have the 2 .*\(the most are 3\)"):
        IdealPoints.learns_from([item("a")] * 3 + [item("b")], settings, "x.jsonl")


@pytest.fixture
def folder(tmp_path):
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, ideal_points={
        "prototypes": 2})
    torch.manual_seed(1)
    network = build_network(settings, users=KnownUsers((ANN, BOB), 2)).eval()
    save_reward(tmp_path / "r", network, settings, {"mean": [-1.0], "std": [2.0]}, {})
    return tmp_path / "r"


def test_a_saved_reward_scores_for_a_user_a_prototype_or_nobody(folder):
    whole = {"kind": "joint", "source": str(folder)}
    for_ann, first, plain = (load_reward(whole | more) for more in ({"user": "ann"}, {"prototype": 0}, {}))
    bare, told = Sample("a red fruit", RED), Sample("a red fruit", RED, known={"user": ANN})
    value = for_ann.score([bare]).values
    torch.testing.assert_close(plain.score([told]).values, value)  # by its own user
    torch.testing.assert_close(load_reward(whole | {"user": ANN}).score([bare]).values, value)
    torch.testing.assert_close(for_ann.score([Sample("a red fruit", RED, known={"user": BOB})]).values, value)
    with torch.no_grad():
        network = plain.network
        inputs = network.backbone.collate([bare])
        direct = [(network(**inputs, user=torch.tensor([place])) + 1) / 2 for place in (0, 2, NOBODY)]
    for found, expected in zip((for_ann, first, plain), direct, strict=True):
        torch.testing.assert_close(found.score([bare]).values, expected[:, 0])
    assert "ann" not in (folder / "reward.json").read_text() and ANN in json.loads(
        (folder / "reward.json").read_text())["users"]["names"]


def test_gradients_to_the_image_are_of_the_same_user(folder):
    reward = load_reward({"kind": "joint", "source": str(folder), "user": "bob"})
    pixels = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 64, 64).clone().requires_grad_()
    value = reward.score_pixels(pixels, ["a red fruit"])
    torch.testing.assert_close(value.detach(), reward.score([Sample("a red fruit", RED)]).values, atol=2e-3, rtol=0)
    assert torch.autograd.grad(value.sum(), pixels)[0].abs().sum() > 0


@pytest.mark.parametrize("given, word", [
    ({"user": "eve"}, "knows no user eve, of 2; add them with `visalign reward fit-user`"),
    ({"prototype": 2}, "has the prototypes 0 to 1, not 2"),
    ({"user": "ann", "prototype": 0}, "both say whose reward it is"),
])
def test_unknown_users_and_prototypes_end_in_one_sentence(folder, given, word, monkeypatch):
    monkeypatch.setattr("visalign.rewards.joint.reward.build_network", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=word):
        load_reward({"kind": "joint", "source": str(folder)} | given)


def test_a_plain_reward_knows_nobody_s_taste():
    with pytest.raises(UserError, match="knows nobody's taste, since its head is scalar"):
        load_reward({"kind": "tiny-reward", "user": "ann"})


def test_prototypes_of_several_members_are_not_one(folder):
    saved = json.loads((folder / "reward.json").read_text())
    saved["model"]["members"] = 2
    (folder / "reward.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match="has 2 members, whose prototypes 1 are not the same"):
        load_reward({"kind": "joint", "source": str(folder), "prototype": 1})


@pytest.mark.parametrize("settings, word", [
    ({"backbone": "vlm", "source": "x/y", "ideal_points": {"kind": "B"}}, "kind B reads the prompt by itself"),
    ({"ideal_points": {"prototypes": 1}}, "prototypes"),
    ({"ideal_points": {}, "general": {}, "dimensions": ("a",), "video_only": ()}, "are two heads"),
])
def test_impossible_heads_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        JointSettings(**settings)


def test_users_count_alike_whatever_the_number_of_their_pairs():
    torch.manual_seed(0)
    settings = JointSettings(dimensions=("d",), video_only=(), members=2, width=8,
                             ideal_points={"prototypes": 2, "size": 2, "equal_users": True})
    found = IdealPoints.of(settings, BACKBONE, KnownUsers(("u0", "u1"), 2, (1, 3)))
    [weigh] = found.filters({"user": torch.tensor([0, 1, 1, 1] * 2)}, lambda rows: rows)
    weight = weigh(torch.zeros(4, 2, 1))
    torch.testing.assert_close(weight, torch.tensor([1.5, 0.5, 0.5, 0.5])[:, None].expand(4, 2))
    assert weight[:1].sum() == weight[1:].sum() and head().filters({}, lambda rows: rows) == ()
