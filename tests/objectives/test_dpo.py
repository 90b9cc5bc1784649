"""Diffusion-DPO and Flow-DPO: numbers worked out by hand."""

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
