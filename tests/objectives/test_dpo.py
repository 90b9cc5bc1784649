"""Diffusion-DPO and Flow-DPO: numbers worked out by hand."""

import dataclasses
import math

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO


def errors(chosen, rejected, ref_chosen=1.1, ref_rejected=1.1, t=0.5, strength=1.0):
    values = (chosen, t, strength, rejected, ref_chosen, ref_rejected)
    return PairErrors(*(torch.tensor([v], dtype=torch.float32, requires_grad=v is chosen) for v in values))


# E_w=1.0, E_l=1.2, both references 1.1, beta=10: inside = -5 * (-0.2 - 0) = 1.0
HAND = dict(chosen=1.0, rejected=1.2)


@pytest.mark.parametrize("method", [DiffusionDPO, FlowDPO])
def test_hand_worked_loss(method):
    outcome = method(beta=10)(errors(**HAND))
    assert outcome.loss.item() == pytest.approx(0.313262, abs=1e-6)  # -log sigmoid(1)
    assert outcome.metrics["implicit_accuracy"].item() == 1
    assert outcome.metrics["margin"].item() == pytest.approx(1.0, abs=1e-6)
    # rewards: -5 * (1.0 - 1.1) = 0.5 and -5 * (1.2 - 1.1) = -0.5
    assert outcome.metrics["reward_chosen"].item() == pytest.approx(0.5, abs=1e-5)
    assert outcome.metrics["reward_rejected"].item() == pytest.approx(-0.5, abs=1e-5)


@pytest.mark.parametrize("method", [DiffusionDPO, FlowDPO])
def test_loss_is_log_two_and_gradient_is_not_zero_when_policy_equals_reference(method):
    pair = errors(0.9, 1.3, ref_chosen=0.9, ref_rejected=1.3)
    loss = method(beta=5000)(pair).loss
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    # d/dE_w = sigmoid(0) * beta / 2 = 1250
    assert pair.chosen.grad.item() == pytest.approx(1250)


def test_derived_weighting_scales_beta_by_one_minus_t_squared():
    # t = 0.5: inside = 0.25 -> -log sigmoid(0.25) = 0.575939
    assert FlowDPO(beta=10, weighting="derived")(errors(**HAND)).loss.item() == pytest.approx(0.575939, abs=1e-6)


def test_label_smoothing_mixes_both_directions():
    # 0.9 * 0.313262 + 0.1 * 1.313262 = 0.413262
    assert DiffusionDPO(beta=10, label_smoothing=0.1)(errors(**HAND)).loss.item() == pytest.approx(0.413262, abs=1e-6)


def test_rdpo_is_unbiased_under_label_flips():
    # averaging the loss over flips at rate e gives the clean loss back
    e, method, clean = 0.2, DiffusionDPO(beta=10, flip_rate=0.2), DiffusionDPO(beta=10)
    right, flipped = errors(1.0, 1.2), errors(1.2, 1.0)
    mixed = (1 - e) * method(right).loss + e * method(flipped).loss
    assert mixed.item() == pytest.approx(clean(right).loss.item(), abs=1e-6)
    # (0.8 * 0.313262 - 0.2 * 1.313262) / 0.6 = -0.020072
    assert method(right).loss.item() == pytest.approx(-0.020072, abs=1e-5)


def test_ipo_squares_the_unscaled_margin():
    # h = -0.5 * (-0.2) = 0.1, tau = 1: (0.1 - 0.5)^2 = 0.16
    assert DiffusionDPO(beta=10, link="ipo", ipo_tau=1.0)(errors(**HAND)).loss.item() == pytest.approx(0.16, abs=1e-6)


def test_hinge_is_zero_beyond_a_margin_of_one():
    assert DiffusionDPO(beta=10, link="hinge")(errors(**HAND)).loss.item() == pytest.approx(0.0, abs=1e-6)
    assert DiffusionDPO(beta=5, link="hinge")(errors(**HAND)).loss.item() == pytest.approx(0.5, abs=1e-6)


def test_rpo_adds_the_chosen_error():
    assert DiffusionDPO(beta=10, sft_weight=0.5)(errors(**HAND)).loss.item() == pytest.approx(0.813262, abs=1e-6)


def test_margin_grows_with_strength():
    # z - 0.5 * 2 = 0 -> log 2
    assert DiffusionDPO(beta=10, margin=0.5)(errors(**HAND, strength=2.0)).loss.item() == pytest.approx(math.log(2))


def test_mean_over_pairs():
    pair = PairErrors(torch.tensor([1.0, 1.2]), torch.full((2,), 0.5), torch.ones(2), torch.tensor([1.2, 1.0]),
                      torch.full((2,), 1.1), torch.full((2,), 1.1))
    assert DiffusionDPO(beta=10)(pair).loss.item() == pytest.approx((0.313262 + 1.313262) / 2, abs=1e-6)


@pytest.mark.parametrize("settings, named", [
    ({"beta": 0}, "beta"), ({"label_smoothing": 0.5}, "label_smoothing"), ({"flip_rate": -0.1}, "flip_rate"),
    ({"label_smoothing": 0.1, "flip_rate": 0.1}, "one of them"), ({"link": "ipo", "flip_rate": 0.1}, "sigmoid"),
])
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        DiffusionDPO(**settings)


def soft(chance, **given):
    return dataclasses.replace(errors(**HAND | given), chance=torch.tensor([chance]))


@pytest.mark.parametrize("settings", [{}, {"link": "hinge"}, {"link": "ipo"}, {"label_smoothing": 0.1},
                                      {"flip_rate": 0.2, "sft_weight": 0.3}, {"margin": 0.7}])
def test_a_certain_label_is_the_loss_without_a_chance_to_the_bit(settings):
    method = DiffusionDPO(beta=2000, **settings)
    for chosen in (0.9, 1.0, 1.17, 1.3):
        plain, certain = errors(chosen, 1.2), dataclasses.replace(errors(chosen, 1.2), chance=torch.ones(1))
        losses = [method(each).loss for each in (plain, certain)]
        gradients = [torch.autograd.grad(loss, each.chosen)[0]
                     for loss, each in zip(losses, (plain, certain), strict=True)]
        assert torch.equal(*losses) and torch.equal(*gradients)


def test_a_soft_label_mixes_both_directions():
    # 0.7 * 0.313262 + 0.3 * 1.313262 = 0.613262
    assert DiffusionDPO(beta=10)(soft(0.7)).loss.item() == pytest.approx(0.613262, abs=1e-6)


@pytest.mark.parametrize("method", [DiffusionDPO, FlowDPO])
def test_label_smoothing_is_one_chance_for_all(method):
    expected = method(beta=10, label_smoothing=0.1)(errors(**HAND)).loss.item()
    assert method(beta=10)(soft(0.9)).loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chance", [0.5, 0.8, 1.0])
def test_at_the_reference_a_soft_label_scales_the_gradient(chance):
    # d/dE_w = (2p - 1) * sigmoid(0) * beta / 2
    pair = soft(chance, chosen=0.9, rejected=1.3, ref_chosen=0.9, ref_rejected=1.3)
    gradient = torch.autograd.grad(DiffusionDPO(beta=5000)(pair).loss, pair.chosen)[0]
    assert gradient.item() == pytest.approx(1250 * (2 * chance - 1), abs=1e-3)


def test_the_best_margin_under_a_soft_label_is_its_log_odds():
    p, z = 0.8, torch.tensor([math.log(0.8 / 0.2)], requires_grad=True)
    zero = torch.zeros(1)
    pair = PairErrors(-2 * z / 10, zero, zero, zero, zero, zero, chance=torch.tensor([p]))
    assert torch.autograd.grad(DiffusionDPO(beta=10)(pair).loss, z)[0].item() == pytest.approx(0, abs=1e-6)


def test_ipo_under_a_soft_label_aims_at_a_smaller_margin():
    # h 0.1, c = 1 / (2 tau) = 0.5, p 0.8: 0.8 * 0.16 + 0.2 * 0.36 = 0.2 = (h - 0.6 c)^2 + c^2 (1 - 0.36)
    loss = DiffusionDPO(beta=10, link="ipo", ipo_tau=1.0)(soft(0.8)).loss.item()
    assert loss == pytest.approx(0.2, abs=1e-6) and loss == pytest.approx(0.2**2 + 0.25 * 0.64, abs=1e-6)


def test_hinge_under_a_soft_label():
    # z 0.5: 0.8 * 0.5 + 0.2 * 1.5 = 0.7
    assert DiffusionDPO(beta=5, link="hinge")(soft(0.8)).loss.item() == pytest.approx(0.7, abs=1e-6)


def test_a_loss_weight_scales_each_pairs_gradient():
    chosen = torch.tensor([0.4, 0.4], requires_grad=True)
    same = torch.full((2,), 0.4)
    errors = PairErrors(chosen, same, torch.ones(2), same, same, same, weight=torch.tensor([1.0, 3.0]))
    DiffusionDPO(beta=2.0)(errors).loss.backward()
    assert chosen.grad.tolist() == pytest.approx([0.25, 0.75])  # w beta/2 sigmoid(0) / B
