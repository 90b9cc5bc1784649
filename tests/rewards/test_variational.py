"""Latents of users: the chapter's numbers, the encoder, nobody, what is kept in a folder, and refusals."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from visalign.config import JointSettings
from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.joint.heads import NOBODY, KnownUsers
from visalign.rewards.joint.reward import build_network, save_reward
from visalign.rewards.joint.variational import (
    DRAWS,
    REFERENCES,
    Bounded,
    MemberMLP,
    Variational,
    annealed,
    kl_from_prior,
    of_equal_length,
)
from visalign.storage.hashed_users import hashed_user

BACKBONE = SimpleNamespace(features=5, prompt=slice(1, 4))
ANN, BOB = hashed_user("ann"), hashed_user("bob")
RED = Image.new("RGB", (64, 64), "red")


def head(users=3, members=2, dimensions=2, **settings):
    torch.manual_seed(0)
    names = tuple(f"d{i}" for i in range(dimensions))
    whole = JointSettings(dimensions=names, video_only=(), members=members, width=8,
                          variational={"size": 4} | settings)
    return Variational.of(whole, BACKBONE, KnownUsers(tuple(f"u{i}" for i in range(users)), users))


def pairs(count, dimensions=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, count, 1, 5, generator=rng)
    return a, b, torch.randint(0, 2, (count, dimensions), generator=rng).float()


def test_the_worked_out_divergence():
    one = kl_from_prior(torch.tensor([0.5]), torch.tensor([-0.5]))
    # (0.25 + exp(-0.5) - 1 + 0.5) / 2
    assert one.item() == pytest.approx(0.178265, abs=1e-6) == pytest.approx((0.25 + math.exp(-0.5) - 0.5) / 2, abs=1e-6)
    assert kl_from_prior(torch.zeros(3), torch.zeros(3)).item() == 0
    normal = torch.distributions.Normal
    mean, log_var = torch.tensor([0.3, -0.8]), torch.tensor([0.9, -0.2])
    exact = torch.distributions.kl_divergence(normal(mean, (log_var / 2).exp()), normal(0.0, 1.0)).sum()
    torch.testing.assert_close(kl_from_prior(mean, log_var), exact)


def test_the_weight_of_the_divergence_rises_by_a_half_cosine_again_and_again():
    # from 0.1 to 1: a quarter of the way (1 - cos(pi / 4)) / 2 = 0.146447, halfway 0.5
    assert [annealed(step, 100, 0.1) for step in (0, 25, 50, 100, 150)] == pytest.approx(
        [0.1, 0.1 + 0.9 * 0.146447, 0.55, 0.1, 0.55], abs=1e-6)
    assert annealed(7, 1, 0.25) == 0.25 and annealed(33, 100, 1.0) == 1.0


def test_a_latent_has_the_length_of_the_root_of_its_size_while_learning_and_after():
    found = head()
    z = found.latent(torch.tensor([0.3, 0.0, 0.4, 0.0]), torch.zeros(4), torch.zeros(4))
    assert z.tolist() == pytest.approx([1.2, 0, 1.6, 0])  # (.3, 0, .4, 0) / .5, times 2
    seen = []
    found.of_user.register_forward_hook(lambda module, given, out: seen.append(given[0]))
    a, b, said = pairs(3)
    found(torch.randn(2, 1, 5), torch.tensor([0, 1]))
    found(torch.randn(2, 1, 5), torch.tensor([NOBODY, NOBODY]), torch.tensor([[0, 1, 2]]), said, torch.cat([a, b]))
    assert len(seen) == 3  # scoring, learning, and with a latent of the prior
    for each in seen:
        lengths = torch.linalg.vector_norm(each, dim=-1)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 2.0))


def test_the_order_of_the_pairs_that_are_shown_is_nothing_and_every_one_of_them_counts():
    found, (a, b, said) = head(), pairs(5)
    one = found.posterior(a, b, said, torch.tensor([[0, 1, 2, 3, -1]]))
    for other in ([[3, 1, 0, 2, -1]], [[-1, 2, 3, 0, 1]], [[2, 0, 1, 3]]):
        for mine, theirs in zip(one, found.posterior(a, b, said, torch.tensor(other)), strict=True):
            torch.testing.assert_close(mine, theirs)
    without = found.posterior(a, b, said, torch.tensor([[0, 1, 2, -1, -1]]))
    assert all((mine - theirs).abs().amax((0, 3)).min() > 1e-5 for mine, theirs in zip(one, without, strict=True))
    assert all(each.abs().max() <= 1 for each in one)


def test_labels_turn_the_pair_round_and_ties_and_gaps_say_nothing():
    found, (a, b, said) = head(), pairs(3)
    every = torch.arange(3)[None]
    turned = found.posterior(b, a, 1 - said, every)
    for mine, theirs in zip(found.posterior(a, b, said, every), turned, strict=True):
        torch.testing.assert_close(mine, theirs)
    more, vague = torch.cat([a, a[:1]]), said.clone()
    label = torch.cat([said, torch.tensor([[0.5, float("nan")]])])
    same = found.posterior(more, torch.cat([b, b[:1]]), label, torch.arange(4)[None])
    torch.testing.assert_close(same[0], found.posterior(a, b, said, every)[0])
    vague[:, 0] = 0.5  # in the first dimension this user says nothing
    mean, log_var = found.posterior(a, b, vague, every)
    assert mean[:, :, 0].abs().max() == log_var[:, :, 0].abs().max() == 0 and mean[:, :, 1].abs().min() > 0


def test_the_worked_out_attention():
    """Of two codes 1 and 3 with query, key and value weights 1: softmax of products, then the mean of both answers."""
    settings = JointSettings(dimensions=("d",), video_only=(), members=1, width=1, variational={"size": 1},
                             attention_heads=1)
    found = Variational.of(settings, BACKBONE, KnownUsers(("u",), 1))
    found.pair_first, found.pair_rest = torch.nn.Identity(), torch.nn.Identity()
    found.norm = torch.nn.Identity()
    with torch.no_grad():
        for layer in (*found.attention, found.to_mean, found.to_log_var):
            layer.weight.fill_(1.0)
        found.to_mean.weight.fill_(0.1)
        found.to_log_var.weight.fill_(-0.2)
    codes = torch.tensor([1.0, 3.0])[:, None, None]

    class First(torch.nn.Module):  # the code of a pair is its winner's feature
        def forward(self, both):
            return both[..., :1]

    found.pair_first = First()
    mean, log_var = found.posterior(codes, torch.zeros_like(codes), torch.ones(2, 1), torch.tensor([[0, 1]]))
    first = (1 * math.exp(1) + 3 * math.exp(3)) / (math.exp(1) + math.exp(3))
    second = (1 * math.exp(3) + 3 * math.exp(9)) / (math.exp(3) + math.exp(9))
    read = (first + second) / 2
    assert read == pytest.approx(2.878324, abs=1e-6)  # 1 + s(2) + s(6)
    assert mean.item() == pytest.approx(0.1 * read, abs=1e-5)
    assert log_var.item() == pytest.approx(-0.2 * read, abs=1e-5)


def test_without_a_pair_a_user_is_the_prior_and_so_is_nobody():
    found, features = head(), torch.randn(3, 1, 5)
    a, b, said = pairs(2)
    mean, log_var = found.posterior(a, b, said, torch.tensor([[-1, -1]]))
    assert mean.abs().max() == log_var.abs().max() == 0
    nobody = found(features, torch.full((3,), NOBODY))
    z = of_equal_length(found.draws)
    by_hand = torch.stack([found.at(features, each[None, None])[0] for each in z]).mean(0)
    torch.testing.assert_close(nobody, by_hand)
    torch.testing.assert_close(nobody, found.expected(features, mean, log_var))
    assert found.draws.mean(0).abs().max() < 1e-6 and len(found.draws) == DRAWS  # no direction comes first


def test_a_user_s_reward_is_their_own_and_the_same_each_time():
    found, features = head(), torch.randn(2, 1, 5)
    a, b, said = pairs(6)
    with torch.no_grad():
        for place, (own, turn) in enumerate(((slice(0, 3), 0), (slice(3, 6), 0), (slice(0, 3), 1))):
            found.keep_user(place, a[own], b[own], said[own] if not turn else 1 - said[own])
        rewards = [found(features, torch.full((2,), place)) for place in (0, 1, 2, NOBODY)]
        again = found(features, torch.tensor([1, 0]))
    torch.testing.assert_close(again, torch.stack([rewards[1][0], rewards[0][1]]))
    for i in range(4):
        for j in range(i):
            assert (rewards[i] - rewards[j]).abs().max() > 1e-4
    assert found.collate([Sample("x", known={"user": "u2"}), Sample("x", known={"user": "?"}), Sample("x")])[
        "user"].tolist() == [2, NOBODY, NOBODY]


def test_all_of_it_is_reached_and_both_sides_of_a_pair_have_one_latent():
    found, (a, b, said) = head(), pairs(4)
    same = torch.randn(2, 1, 5).repeat(2, 1, 1)
    context = torch.tensor([[0, 1, -1], [1, 2, 3]])
    rewards = found(same, torch.full((4,), NOBODY), context, said, torch.cat([a, b]))
    torch.testing.assert_close(*rewards.chunk(2))
    learnt = found.beside(torch.tensor([[1.0, 0.5], [0.0, float("nan")]]), step=50)
    (rewards[:2].square().sum() + learnt.loss).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for name, p in found.named_parameters()
               if name not in ("rest.3.bias", "attention.1.bias"))  # adds to all rewards, and to all of a row's scores
    assert learnt.metrics["kl"].shape == (2,) and learnt.metrics["accuracy_prior"].isnan().tolist() == [
        [False, True], [False, True]]
    mean, log_var = found.posterior(a, b, said, context)
    weight = 0.01 * annealed(50, 200, 0.1)
    torch.testing.assert_close(learnt.loss, weight * kl_from_prior(mean, log_var).mean())


def test_the_zero_and_unit_of_a_user_are_those_of_what_was_learnt_from():
    found = head(members=1)
    features, has = torch.randn(2 * REFERENCES, 1, 5), torch.ones(2 * REFERENCES, 2)
    has[::2, 1] = 0
    found.keep_reference(features, has)
    mean, log_var = torch.rand(2, 1, 2, 4)
    standard = found.standard_of(mean, log_var)
    values = found.expected(features, mean[None], log_var[None])[:, 0]
    assert standard["mean"] == pytest.approx([values[:, 0].mean().item(), values[1::2, 1].mean().item()], abs=1e-5)
    assert standard["std"] == pytest.approx([values[:, 0].std().item(), values[1::2, 1].std().item()], abs=1e-5)


def test_collapse_is_told():
    found = head(dimensions=1)
    with torch.no_grad():
        assert "0.00 nats from their prior, so that nothing is known" in found.told()[0]
        found.user_mean += 1  # four numbers of size 1: 2 nats
        assert "lie 2.00 nats" in found.told()[0] and "nothing" not in found.told()[0]


def test_several_layers_read_what_they_should():
    found = MemberMLP(JointSettings(dimensions=("d",), video_only=(), members=1, width=1, attention_heads=1), 1)
    with torch.no_grad():
        for layer, weight in ((found[1], -2.0), (found[3], 5.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(1.0)
    # 3 -> -6 + 1 = -5 -> -1 by the slope .2 -> -5 + 1
    assert found(torch.full((1, 1, 1, 1), 3.0)).item() == pytest.approx(-4.0)


@pytest.fixture
def folder(tmp_path):
    settings = JointSettings(dimensions=("quality",), video_only=(), width=16, members=1, variational={"size": 4})
    torch.manual_seed(1)
    network = build_network(settings, users=KnownUsers((ANN, BOB), 2)).eval()
    features = torch.randn(2 * REFERENCES, 1, network.backbone.features)
    network.heads.keep_reference(features, torch.ones(2 * REFERENCES, 1))
    for place in (0, 1):
        network.heads.keep_user(place, *features[:8].chunk(2), torch.full((4, 1), float(place)))
    save_reward(tmp_path / "r", network, settings, {"mean": [-1.0], "std": [2.0]}, {})
    return tmp_path / "r"


def test_a_saved_reward_scores_for_a_known_user_as_before_and_in_their_unit(folder):
    whole = {"kind": "joint", "source": str(folder)}
    for_ann, plain = (load_reward(whole | more) for more in ({"user": "ann"}, {}))
    bare, told = Sample("a red fruit", RED), Sample("a red fruit", RED, known={"user": ANN})
    saved = json.loads((folder / "reward.json").read_text())["users"]
    assert saved["names"] == [ANN, BOB] and "ann" not in saved["standards"]
    zero, unit = (saved["standards"][ANN][name][0] for name in ("mean", "std"))
    network, value = plain.network, for_ann.score([bare]).values
    with torch.no_grad():
        inputs = network.backbone.collate([bare])
        own, other, nobody = (network(**inputs, user=torch.tensor([place]))[0] for place in (0, 1, NOBODY))
    torch.testing.assert_close(value, (own - zero) / unit)
    assert for_ann.logit_scale == (unit,)
    torch.testing.assert_close(plain.score([told]).values, (own + 1) / 2)  # by its own user, in the unit of all
    torch.testing.assert_close(plain.score([bare]).values, (nobody + 1) / 2)
    assert len({round(each.item(), 5) for each in (own, other, nobody)}) == 3
    # saved again, the folder is the same to the bit
    save_reward(folder.parent / "again", network.requires_grad_(), plain.settings, {"mean": [-1.0], "std": [2.0]}, {})
    again = load_reward(whole | {"source": str(folder.parent / "again"), "user": "ann"})
    assert torch.equal(again.score([bare]).values, value)


def test_gradients_to_the_image_are_of_the_same_user(folder):
    reward = load_reward({"kind": "joint", "source": str(folder), "user": "bob"})
    pixels = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 64, 64).clone().requires_grad_()
    value = reward.score_pixels(pixels, ["a red fruit"])
    torch.testing.assert_close(value.detach(), reward.score([Sample("a red fruit", RED)]).values, atol=2e-2, rtol=0)
    assert torch.autograd.grad(value.sum(), pixels)[0].abs().sum() > 0


@pytest.mark.parametrize("given, word", [
    ({"user": "eve"}, "knows no user eve, of 2; add them with `visalign reward fit-user`"),
    ({"prototype": 1}, "its head is variational, which has no prototypes; give user instead of prototype 1"),
])
def test_unknown_users_and_prototypes_end_in_one_sentence(folder, given, word, monkeypatch):
    monkeypatch.setattr("visalign.rewards.joint.reward.build_network", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(UserError, match=word):
        load_reward({"kind": "joint", "source": str(folder)} | given)


def test_who_is_learnt_from_and_who_has_too_few(capsys):
    settings = JointSettings(variational={"least": 3})
    items = [SimpleNamespace(user=user) for user in [*"aaabbbc", None]]
    kept, users = Variational.learns_from(items, settings, "x.jsonl")
    assert [each.user for each in kept] == [*"aaabbb"] and users == KnownUsers(("a", "b"), 2)
    assert "model.variational: 2 of 8 pairs are left out, 1 of nobody" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"none of 1 training pairs says whose it is, and model.variational .* user"):
        Variational.learns_from(items[-1:], settings, "x.jsonl")
    with pytest.raises(UserError, match=r"0 of 2 users have the 3 training pairs that model.variational.least asks"):
        Variational.learns_from(items[6:7] + items[:1], settings, "x.jsonl")


@pytest.mark.parametrize("settings, word", [
    ({"variational": {"least": 1}}, "least"),
    ({"variational": {"context": 0}}, "context"),
    ({"ideal_points": {}, "variational": {}}, "are two heads"),
])
def test_impossible_heads_are_refused(settings, word):
    with pytest.raises(ValueError, match=word):
        JointSettings(**settings)


def test_what_is_clamped_may_return_and_goes_no_further():
    x = torch.tensor([-2.0, -2.0, 0.3, 2.0, 2.0, 1.0], requires_grad=True)
    slope = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])  # a step goes against it
    Bounded.apply(x).backward(slope)
    assert Bounded.apply(x).tolist() == pytest.approx([-1, -1, 0.3, 1, 1, 1])
    assert x.grad.tolist() == [0, -1, 1, 1, 0, -1]
