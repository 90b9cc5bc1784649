"""SFT and Flow-RWR."""

import math

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.regression import SFT, FlowRWR


def pair(chosen_reward=1.0, rejected_reward=-1.0):
    one = torch.ones(1)
    return PairErrors(0.4 * one, 0.5 * one, one, 0.8 * one, chosen_reward=chosen_reward * one,
                      rejected_reward=rejected_reward * one)


def test_sft_is_the_error_on_chosen_samples():
    assert SFT()(pair()).loss.item() == pytest.approx(0.4)


def test_rwr_by_hand():
    # weights e and 1/e over their mean 1.543081: 1.761594, 0.238406; mean(1.761594 * 0.4, 0.238406 * 0.8) = 0.447681
    outcome = FlowRWR(tau=1.0)(pair())
    assert outcome.metrics["chosen_weight"].item() == pytest.approx(math.e / math.cosh(1), abs=1e-5)
    assert outcome.loss.item() == pytest.approx(0.447681, abs=1e-5)


def test_rwr_with_infinite_temperature_is_sft_on_all_samples():
    assert FlowRWR(tau=1e9)(pair()).loss.item() == pytest.approx(0.6, abs=1e-6)


def test_rwr_weights_have_mean_one_and_are_clipped():
    weights = FlowRWR(tau=0.01, clip=2.0).weights(torch.tensor([3.0, -3.0, 0.0]))
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    assert (weights[0] / weights[1]).item() == pytest.approx(math.exp(4), rel=1e-4)


def test_temperature_must_be_positive():
    with pytest.raises(ValueError, match="tau"):
        FlowRWR(tau=0)


def test_a_loss_weight_counts_a_pair_more_or_less():
    errors = PairErrors(torch.tensor([0.4, 0.2]), torch.full((2,), 0.5), torch.ones(2), weight=torch.tensor([1.0, 0.5]))
    assert SFT()(errors).loss.item() == pytest.approx((0.4 + 0.5 * 0.2) / 2)
