"""Lagrange multipliers: the hand numbers of constrained RLHF, and that a saturated one is the plain rule."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.constrained import Multipliers

F64 = torch.float64


def multipliers(*means, threshold=0.44, **settings):
    """After epochs in which the reward had these means."""
    found = Multipliers(("a",), torch.ones(1), {"a": threshold}, **settings)
    for mean in means:
        found.see(torch.tensor([[mean - 1], [mean + 1]], dtype=F64))
    return found


def test_tanh_rises_below_the_threshold_and_falls_above():
    # raw 0, slope 1: raw = .1 (.44 - .30) = .014, tanh .0139991
    first = multipliers(0.30)
    assert first.raw.item() == pytest.approx(0.014) and first.weights.item() == pytest.approx(0.013999, abs=1e-6)
    # velocity = .1 (-.14) + (1 - .014^2) .06 = .0459882
    second = multipliers(0.30, 0.50)
    assert second.raw.item() == pytest.approx(0.014 - 0.1 * (-0.014 + (1 - 0.0139991 ** 2) * 0.06), abs=1e-9)
    assert second.raw < first.raw
    assert multipliers(*[0.90] * 20).weights.item() < -0.5  # it is pushed back down


def test_plain_multipliers_move_by_the_rate_and_stop_at_zero():
    # .5 + .1 .14 = .514, then - .1 .06 = .508: the steps of .014 -> .008
    assert multipliers(0.30, squash="none", momentum=0.0).raw.item() == pytest.approx(0.514)
    assert multipliers(0.30, 0.50, squash="none", momentum=0.0).raw.item() == pytest.approx(0.508)
    assert multipliers(*[100.0] * 3, squash="none").weights.item() == 0


def test_sigmoid_starts_at_a_half_and_stays_positive():
    # slope 1/4: raw = .1 .14 / 4 = .0035
    assert multipliers(0.30, squash="sigmoid").raw.item() == pytest.approx(0.0035)
    assert 0 < multipliers(*[5.0] * 30, squash="sigmoid").weights.item() < 0.5


def test_rewards_without_a_threshold_keep_their_weights():
    found = Multipliers(("a", "b"), torch.tensor([1.0, 3.0]), {"a": 1e12})
    found.see(torch.tensor([[0.0, 5.0]]))
    assert found.weights.tolist() == [1, 3]
    assert found.figures(("a", "b")) == {"multiplier/a": 1, "above_threshold/a": -1e12}


def test_an_epoch_without_a_score_moves_nothing():
    found = multipliers(0.30)
    before = found.raw.clone(), found.velocity.clone()
    found.see(torch.tensor([[torch.nan], [torch.nan]]))
    assert torch.equal(found.raw, before[0]) and torch.equal(found.velocity, before[1])
    assert found.figures(("a",)) == {}


def test_a_threshold_out_of_reach_is_the_plain_rule():
    rewards, groups = torch.randn(8, 1, dtype=F64), torch.arange(8) // 4
    rule = AdvantageRule(combine="constrained", thresholds={"a": 1e12})
    mixture = rule.mixture_of(("a",), torch.ones(1))
    mixture.see(rewards)
    mixture.see(rewards)
    plain = AdvantageRule(combine="advantages")(rewards, torch.ones(1), groups)
    found = rule(rewards, mixture.weights, groups)
    assert torch.equal(found.advantages, plain.advantages) and torch.equal(found.trained, plain.trained)


def test_a_negative_multiplier_turns_the_advantages_round():
    rewards = torch.tensor([[0.0], [1.0]], dtype=F64)
    found = AdvantageRule(combine="constrained", thresholds={"a": 0.0})(rewards, torch.tensor([-0.5], dtype=F64),
                                                                        torch.zeros(2, dtype=torch.int64))
    assert found.advantages.tolist() == pytest.approx([0.5, -0.5], abs=1e-3)


def test_a_checkpoint_holds_what_moves():
    found, again = multipliers(0.3, 0.5), multipliers()
    again.load_state_dict(found.state_dict())
    for each in (found, again):
        each.see(torch.tensor([[0.6]]))
    assert torch.equal(found.raw, again.raw)
