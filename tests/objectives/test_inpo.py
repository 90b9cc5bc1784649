"""DDIM-InPO: what it learns to predict, worked out by hand; its loss is Diffusion-DPO's."""

import math
from dataclasses import replace

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.inpo import FlowInPO, InPO
from visalign.processes import Diffusion, Flow


def errors(*values):
    one = torch.ones(1)
    return PairErrors(torch.tensor([values[0]]), one / 2, one, *(torch.tensor([value]) for value in values[1:]))


def test_targets_by_hand():
    # (1.4 - .8 * 1) / .6 = 1;  (.4 - 1) / .4 = -1.5;  v of that eps: .8 * 1 - .6 * 1 = .2
    one, zero = torch.ones(1, 1), torch.tensor([0])
    for kind, expected in (("epsilon", 1.0), ("v_prediction", 0.2)):
        found = Diffusion(torch.tensor([0.64]), kind).target_at(one, 1.4 * one, zero)
        assert found.item() == pytest.approx(expected, abs=1e-6)
    assert Flow().target_at(one, 0.4 * one, torch.tensor([0.4])).item() == pytest.approx(-1.5)


@pytest.mark.parametrize("method, plain", [(InPO, DiffusionDPO), (FlowInPO, FlowDPO)])
def test_the_loss_is_that_of_dpo(method, plain):
    given = errors(1.0, 1.2, 1.1, 1.1)
    assert method(beta=10)(given).loss.item() == pytest.approx(0.313262, abs=1e-6)
    assert torch.equal(method()(given).loss, plain(beta=2000)(given).loss)
    assert method()(errors(1.0, 1.2, 1.0, 1.2)).loss.item() == pytest.approx(math.log(2))


def with_rewards(chosen, rejected, *values):
    return replace(errors(*values), chosen_reward=torch.tensor([chosen]), rejected_reward=torch.tensor([rejected]))


def test_smoothed_labels_by_hand():
    # a = e^.8 / (e^.8 + e^.5) = .574443, factor 2a - 1 = .148885; inside 1 -> -log s(.148885) = .621473
    given = with_rewards(0.8, 0.5, 1.0, 1.2, 1.1, 1.1)
    method = InPO(beta=10, smooth="reward")
    assert method.margin_factor(given).item() == pytest.approx(0.148885, abs=1e-6)
    assert method(given).loss.item() == pytest.approx(0.621473, abs=1e-6)
    assert method(given).metrics["margin"].item() == pytest.approx(1.0)
    assert method(with_rewards(0.5, 0.5, 1.0, 1.2, 1.1, 1.1)).loss.item() == pytest.approx(math.log(2))
    assert method.needs == {"rejected", "reference", "rewards"} and method.standardise == "range"
    assert InPO().needs == {"rejected", "reference"} and InPO().standardise == "dataset"


def test_smoothing_without_rewards_and_beside_a_margin_by_reward_is_refused():
    with pytest.raises(ValueError, match="carry no reward"):
        InPO(smooth="reward")(errors(1.0, 1.2, 1.1, 1.1))
    with pytest.raises(ValueError, match="smooth and margin_of"):
        FlowInPO(smooth="reward", margin_of={"reward": 0.2})


def test_passes_of_a_sample_to_its_state():
    assert InPO().passes == (1, 11) and FlowInPO(inversion_steps=4, renoise=True).passes == (1, 6)
    assert DiffusionDPO().passes == (1, 1)


@pytest.mark.parametrize("settings, named", [
    ({"inversion_steps": 0}, "inversion_steps must be at least 1 and at most 100, got 0"),
    ({"inversion_noise": -0.1}, "inversion_noise must be at least 0"), ({"beta": 0}, "beta")])
def test_impossible_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        InPO(**settings)
