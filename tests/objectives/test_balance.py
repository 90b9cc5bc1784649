"""Gradient balance: the hand numbers of MARBLE, its properties, and that one backward pass adds up K of them."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.balance import Balance, least_norm
from visalign.objectives.forward import AWM, RAFT, DiffusionNFT
from visalign.objectives.policy import GRPO

from .test_forward import terms, velocity

F64 = torch.float64


def balanced(*gradients, **settings):
    """(weights on the simplex, combined gradient) of rows."""
    rows = torch.tensor(gradients, dtype=F64)
    found = Balance(len(rows), **settings).combined(rows @ rows.T)
    return found, found.factors @ rows


def test_a_long_gradient_rules_unless_directions_count():
    # g1 = (1, 0), g2 = (0, 2): alpha1 = (g2 - g1).g2 / |g1 - g2|^2 = 4 / 5, d = .8 g1 + .2 g2 = (.8, .4)
    raw, combined = balanced((1, 0), (0, 2), normalise=False)
    assert raw.weights.tolist() == pytest.approx([0.8, 0.2]) and combined.tolist() == pytest.approx([0.8, 0.4])
    # of unit length they count alike; times the mean length 1.5
    unit, combined = balanced((1, 0), (0, 2))
    assert unit.weights.tolist() == pytest.approx([0.5, 0.5]) and combined.tolist() == pytest.approx([0.75, 0.75])
    assert unit.norms.tolist() == [1, 2] and unit.cosines.tolist() == pytest.approx([2 ** -0.5] * 2)


def test_opposite_gradients_leave_nothing_and_one_is_itself():
    opposite, combined = balanced((1, 2), (-1, -2))
    assert combined.tolist() == pytest.approx([0, 0], abs=1e-12) and opposite.cosines.tolist() == [0, 0]
    assert opposite.weights.tolist() == pytest.approx([0.5, 0.5])
    alone, combined = balanced((3, 4))
    assert alone.weights.tolist() == [1] and combined.tolist() == [3, 4]
    assert alone.cosines.tolist() == pytest.approx([1])


def test_two_of_one_direction_count_alike():
    same, combined = balanced((1, 1), (1, 1))
    assert same.weights.tolist() == pytest.approx([0.5, 0.5]) and combined.tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_no_reward_is_harmed(count, seed):
    rows = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=F64)
    unit = rows / rows.norm(dim=1, keepdim=True)
    weights = least_norm(unit @ unit.T)
    d = weights @ unit
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1)
    gained = unit @ d - d @ d
    assert gained.min() >= -1e-6
    assert gained[weights > 1e-9].abs().max() < 1e-6  # equal where a weight counts
    found = Balance(count).combined(rows @ rows.T)
    torch.testing.assert_close(found.factors @ rows, d * rows.norm(dim=1).mean(), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_two_vectors_have_the_closed_form(seed):
    g1, g2 = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    rows = torch.stack([g1, g2])
    expected = ((g2 - g1) @ g2 / (g1 - g2).square().sum()).clamp(0, 1)
    assert least_norm(rows @ rows.T)[0].item() == pytest.approx(expected.item(), abs=1e-9)


def test_weights_move_on_the_simplex():
    # .7 (.2, ...) + .3 (1, 0, 0, 0, 0)
    balance = Balance(5)
    balance.learn(torch.tensor([1.0, 0, 0, 0, 0], dtype=F64))
    assert balance.weights.tolist() == pytest.approx([0.44, 0.14, 0.14, 0.14, 0.14])


def test_a_reward_without_a_gradient_keeps_its_weight():
    found, combined = balanced((1, 0), (0, 0), (0, 1))
    assert found.weights.tolist() == pytest.approx([1 / 3] * 3)
    assert found.factors.tolist() == pytest.approx([0.5, 0, 0.5]) and found.cosines[1] == 0
    nothing, combined = balanced((0, 0), (0, 0))
    assert nothing.weights.tolist() == [0.5, 0.5] and combined.tolist() == [0, 0]


def test_probes_come_every_so_many_updates_and_outlive_a_checkpoint():
    balance, due = Balance(2, every=3), []
    for _ in range(5):
        due.append(balance.due)
        balance.updates += 1
    balance.learn(torch.tensor([1.0, 0.0], dtype=F64))
    assert due == [True, False, False, True, False]
    again = Balance(2, every=3)
    again.load_state_dict(balance.state_dict())
    assert torch.equal(again.weights, balance.weights) and not again.due and again.updates == 5


def by_reward(rewards, **settings):
    rule = AdvantageRule(combine="marble", drop_zero=False, **settings)
    rewards = torch.tensor(rewards, dtype=F64)
    weights = rule.mixture_of(("a", "b"), torch.ones(2)).weights
    return rule(rewards, weights, torch.zeros(len(rewards), dtype=torch.int64))


def test_advantages_are_kept_by_reward_and_mixed():
    found = by_reward([[0.0, 5.0], [1.0, 5.0], [2.0, 8.0]], eps=1e-12)
    columns = [[-(1.5 ** 0.5), 0, 1.5 ** 0.5], [-(0.5 ** 0.5), -(0.5 ** 0.5), 2 * 0.5 ** 0.5]]
    assert found.by_reward.T.tolist() == [pytest.approx(column, abs=1e-9) for column in columns]
    torch.testing.assert_close(found.advantages, found.by_reward.mean(1))


def test_what_is_cut_is_counted_before_it_is_mixed():
    found = by_reward([[0.0, 0.0], [0.0, 1.0], [0.0, 2.0], [9.0, 3.0]], clip=1.4, eps=1e-12)
    assert found.clipped.tolist() == [False, False, False, True]  # sqrt 3 of the first reward, 1.34 of the second
    assert found.by_reward[3].tolist() == pytest.approx([1.4, 1.8 ** 0.5])
    assert found.advantages[3].item() == pytest.approx((1.4 + 1.8 ** 0.5) / 2)


def test_one_reward_is_the_plain_rule():
    rewards, groups = torch.randn(8, 1, dtype=F64), torch.arange(8) // 4
    plain = AdvantageRule(combine="advantages")(rewards, torch.ones(1), groups)
    alone = AdvantageRule(combine="marble")(rewards, torch.ones(1), groups)
    assert torch.equal(plain.advantages, alone.advantages) and torch.equal(plain.trained, alone.trained)


@pytest.mark.parametrize("method, old_is_current", [
    (DiffusionNFT(beta_kl=0.1), False), (DiffusionNFT(beta_kl=0.0, mixing=0.1), False), (AWM(decay_max=0.0), True)])
def test_one_backward_pass_adds_up_the_gradients_of_rewards(method, old_is_current):
    v, ref = velocity(4).requires_grad_(True), velocity(4, seed=3)
    old = v.detach() if old_is_current else velocity(4, seed=2)
    columns = torch.tensor([[1.0, -2.0], [0.5, 0.0], [-3.0, 4.0], [1.5, -2.0]], dtype=F64)
    weights = torch.tensor([0.3, 0.7], dtype=F64)

    def gradient(advantage, part):
        return torch.autograd.grad(part(method(terms(v, old, advantage, ref))), v)[0]

    def reward(outcome):
        return outcome.loss if outcome.apart is None else outcome.loss - outcome.apart

    together = gradient(columns @ weights, lambda outcome: outcome.loss)
    single = sum(w * gradient(column, reward) for w, column in zip(weights, columns.T, strict=True))
    first = method(terms(v, old, columns[:, 0], ref))
    if first.apart is not None:
        single = single + torch.autograd.grad(first.apart, v)[0]
    torch.testing.assert_close(together, single, atol=1e-6, rtol=1e-5)


def terms_of_kl(method, advantage):
    v = velocity().requires_grad_(True)
    outcome = method(terms(v, velocity(seed=2), advantage, velocity(seed=4)))
    return torch.autograd.grad(outcome.apart, v)[0]


@pytest.mark.parametrize("method", [DiffusionNFT(beta_kl=0.5), AWM(beta_kl=0.5)])
def test_no_advantage_enters_what_is_held_apart(method):
    one, other = (terms_of_kl(method, torch.tensor(a, dtype=F64)) for a in ([1.0, 2, 3], [-1.0, 0, 0.5]))
    assert torch.equal(one, other) and one.abs().max() > 0


def test_objectives_say_whether_gradients_add_up():
    assert DiffusionNFT().not_affine(4, 5.0) == "" and AWM(decay_max=0.0).not_affine(1, 5.0) == ""
    assert "advantage_max 2" in DiffusionNFT(advantage_max=2.0).not_affine(1, 5.0)
    assert "decay_max 0" in AWM().not_affine(1, 5.0) and "updates" in AWM(decay_max=0.0).not_affine(2, 5.0)
    assert GRPO().not_affine(1, 5.0) and RAFT().not_affine(1, 5.0)


@pytest.mark.parametrize("settings, words", [
    ({"every": 5}, "every goes with combine marble only"), ({"combine": "gdpo", "normalise": False}, "normalise goes"),
    ({"combine": "marble", "gate": "x"}, "gate counts some"), ({"combine": "marble", "every": 0}, "every must be"),
    ({"combine": "marble", "history": 4}, "history goes with"),
    ({"combine": "marble", "baseline": "median"}, "median goes with")])
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        AdvantageRule(**settings)
