"""The reward that has gained least counts most: group DRO's hand numbers, and one reward is the plain rule."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.worst_group import WorstGroup

F64 = torch.float64


def epoch(*means):
    """Rewards of two samples around these means, standard deviation 1."""
    return torch.tensor([[mean - 1 for mean in means], [mean + 1 for mean in means]], dtype=F64)


def test_losses_weigh_by_their_exponent():
    # gains -.3 and -.9, rate .5: exp(.15) and exp(.45), 1 / (1 + exp .3) = .425557
    found = WorstGroup(2, rate=0.5)
    found.see(epoch(0.0, 0.0))
    assert found.weights.tolist() == [0.5, 0.5]
    found.see(epoch(-0.3, -0.9))
    assert found.weights.tolist() == pytest.approx([0.425557, 0.574443], abs=1e-6)
    assert found.figures(("a", "b")) == pytest.approx({
        "group_weight/a": 0.425557, "group_gain/a": -0.3, "group_weight/b": 0.574443, "group_gain/b": -0.9}, abs=1e-6)
    found.see(epoch(-0.3, -0.9))  # every epoch adds
    assert found.weights[0].item() == pytest.approx(1 / (1 + torch.tensor(0.6).exp().item()), abs=1e-6)


def test_gains_are_measured_in_deviations_of_the_first_epoch():
    found = WorstGroup(2, rate=1.0)
    found.see(torch.tensor([[0.0, 0.0], [2.0, 200.0]]))
    found.see(torch.tensor([[2.0, 200.0], [2.0, 200.0]]))  # one deviation each
    assert found.gains.tolist() == [1, 1] and found.weights.tolist() == pytest.approx([0.5, 0.5])


def test_a_large_rate_takes_the_worst_alone():
    found = WorstGroup(3, rate=1e3)
    found.see(epoch(0.0, 0.0, 0.0))
    found.see(epoch(0.5, 0.1, 0.2))
    assert found.weights.tolist() == pytest.approx([0, 1, 0])


def test_what_says_nothing_keeps_its_share():
    found = WorstGroup(2)
    found.see(torch.tensor([[1.0, torch.nan], [1.0, torch.nan]]))  # the first is the same for all
    found.see(torch.tensor([[9.0, torch.nan], [9.0, torch.nan]]))
    assert found.weights.tolist() == [0.5, 0.5] and "group_gain/b" not in found.figures(("a", "b"))


def test_one_reward_is_the_plain_rule():
    rewards, groups = torch.randn(8, 1, dtype=F64), torch.arange(8) // 4
    rule = AdvantageRule(combine="worst", rate=0.5)
    mixture = rule.mixture_of(("a",), torch.ones(1))
    for _ in range(3):
        mixture.see(rewards)
    plain = AdvantageRule(combine="advantages")(rewards, torch.ones(1), groups)
    assert torch.equal(rule(rewards, mixture.weights, groups).advantages, plain.advantages)


def test_a_checkpoint_holds_what_gains_are_measured_from():
    found, again = WorstGroup(2), WorstGroup(2)
    found.see(epoch(1.0, 2.0))
    again.load_state_dict(found.state_dict())
    for each in (found, again):
        each.see(epoch(2.0, 2.0))
    assert torch.equal(found.weights, again.weights) and found.weights[0] < 0.5
