"""Rewards of sampling steps by what a guide says of states, their advantages, and two surrogates added."""

from dataclasses import replace

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.online import StepTerms, clipped_surrogate
from visalign.objectives.policy import GRPO, FlowDPPO, GRPOGuard, distance_to_guided
from visalign.objectives.process_rewards import process_advantages, process_rewards
from visalign.processes import Flow
from visalign.processes.steps import slope

VALUES = torch.tensor([[[1.0, 3.0], [3.0, 2.0]], [[0.0, 1.0], [1.0, 4.0]]])  # two samples of two steps


@pytest.mark.parametrize("process, expected", [
    ("before", [[1, 3], [0, 1]]), ("after", [[3, 2], [1, 4]]), ("gain", [[2, -1], [1, 3]]),
    ("dense", [[2, -1], [1, 3]])])
def test_what_a_step_is_paid_for(process, expected):
    assert process_rewards(VALUES, process).tolist() == expected


def test_gains_of_consecutive_steps_add_up_to_what_the_end_is_worth_more_than_the_start():
    states = torch.randn(5, 9, dtype=torch.float64)
    values = torch.stack([states[:, :-1], states[:, 1:]], -1)
    torch.testing.assert_close(process_rewards(values, "gain").sum(1), states[:, -1] - states[:, 0])


def test_advantages_are_of_a_step_within_its_group():
    rewards = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, torch.nan], [6.0, 7.0], [9.0, 0.0]])
    steps, groups = torch.tensor([[0, 1]] * 4 + [[2, 3]]), torch.tensor([7, 7, 7, 7, 8])
    found = process_advantages(rewards, steps, groups, eps=0.0, clip=5.0)
    # (1, 2, 3, 6): mean 3, std sqrt(3.5) with ddof 0
    assert found[:4, 0].tolist() == pytest.approx([-1.0690, -0.5345, 0, 1.6035], abs=1e-4)
    # (5, 5, 7): mean 17/3, std sqrt(8)/3; the one that is not known takes no part, and is 0
    assert found[:4, 1].tolist() == pytest.approx([-0.7071, -0.7071, 0, 1.4142], abs=1e-4)
    assert found[4].tolist() == [0, 0]  # alone in its group
    assert process_advantages(rewards, steps, groups, 0.0, clip=1.0)[:4, 0].tolist() == pytest.approx(
        [-1, -0.5345, 0, 1], abs=1e-4)


def test_the_same_step_is_compared_whichever_column_it_is_in():
    rewards, steps = torch.tensor([[1.0, 4.0], [8.0, 3.0]]), torch.tensor([[0, 2], [2, 5]])
    found = process_advantages(rewards, steps, torch.tensor([0, 0]), eps=0.0, clip=5.0)
    assert found.tolist() == [[0, -1], [1, 0]]


def test_a_sample_whose_steps_differ_is_trained_on_though_all_outcomes_are_equal():
    rule = AdvantageRule(process_weight=0.5)
    rewards, groups = torch.tensor([[1.0], [1.0], [2.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    process = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = rule(rewards, torch.ones(1), groups, process=process)
    assert found.trained.tolist() == [True, True, False, False] and found.advantages.tolist() == [0] * 4
    assert torch.equal(found.process, 0.5 * process)
    assert rule(rewards, torch.ones(1), groups).trained.any().item() is False


def test_the_rule_uses_its_own_form_eps_and_clip():
    rule = AdvantageRule(process_weight=1.0, process="before", clip=0.5)
    steps = torch.tensor([[0, 1], [0, 1]])
    assert rule.of_steps(VALUES, steps, torch.tensor([0, 0])).tolist() == [[0.5, 0.5], [-0.5, -0.5]]


def terms(outcome, process, ratio, n=2, moves=None):
    """Steps whose ratios are given, of 4 dimensions, std 0.5."""
    old = torch.zeros(n)
    mean = torch.randn(n, 4)
    return StepTerms(advantage=torch.tensor(outcome), log_prob=torch.tensor(ratio).log(), old_log_prob=old,
                     sample=mean, mean=mean, old_mean=mean - 0.1, std=torch.full((n,), 0.5), h=torch.full((n,), 0.1),
                     sensitivity=torch.full((n,), 0.2), prediction=mean, process_advantage=process, moves=moves)


def test_both_surrogates_are_clipped_on_their_own():
    given = terms([1.0, 1.0], torch.tensor([-1.0, 2.0]), [1.3, 1.3])
    found = GRPO(clip=0.2)(given)
    # outcome: max(-1.3, -1.2) = -1.2 (clipped). process: max(1.3, 1.2) = 1.3 for -1; max(-2.6, -2.4) = -2.4 for 2
    assert found.metrics["policy_loss"].tolist() == pytest.approx([-1.2, -1.2])
    assert found.metrics["process_loss"].tolist() == pytest.approx([1.3, -2.4])
    assert found.loss.item() == pytest.approx((0.1 - 3.6) / 2)
    # which is not the surrogate of the sum: that is 0 for the first
    assert clipped_surrogate(torch.tensor(0.0), torch.tensor(1.3), 0.2, 0.2).item() == 0


@pytest.mark.parametrize("method", [GRPO(clip=0.2), GRPOGuard(clip=0.2), FlowDPPO(divergence=1.0)])
def test_a_process_advantage_of_nothing_changes_nothing(method):
    plain = terms([1.0, -1.0], None, [1.1, 0.9])
    assert torch.equal(method(plain).loss, method(replace(plain, process_advantage=torch.zeros(2))).loss)


@pytest.mark.parametrize("sampler, level", [("dance_sde", 0.25), ("flow_sde", 0.7), ("cps", 0.8)])
def test_the_velocity_of_distillation_has_the_guided_mean(sampler, level):
    """v* = v + move / slope; for an SDE of a flow that is v - kappa grad R / (1 + g^2 (1-t) / (2t))."""
    process, kappa = Flow(), 0.3
    t, t_next = torch.tensor([0.8, 0.5]).double(), torch.tensor([0.7, 0.4]).double()
    x, v, gradient = torch.randn(3, 2, 6, dtype=torch.float64).unbind(0)
    move = kappa * (t - t_next)[:, None] * gradient
    slopes = slope(process, x, t, t_next, sampler, level)
    guided = process.moments(v, x, t, t_next, sampler, level).mean + move
    target = v + move / slopes[:, None]
    torch.testing.assert_close(process.moments(target, x, t, t_next, sampler, level).mean, guided, atol=1e-6, rtol=0)
    if sampler == "dance_sde":
        bracket = 1 + level**2 * (1 - t) / (2 * t)
        torch.testing.assert_close(target, v - kappa * gradient / bracket[:, None], atol=1e-6, rtol=0)
    learnt = v + 0.1 * torch.randn_like(v)
    mean = process.moments(learnt, x, t, t_next, sampler, level).mean
    given = replace(terms([0.0, 0.0], None, [1.0, 1.0]), mean=mean,
                    old_mean=guided - move, moves=move, sensitivity=slopes.abs())
    torch.testing.assert_close(distance_to_guided(given), (learnt - target).square().mean(1))


def test_distillation_is_of_guided_steps_alone():
    moves = torch.tensor([[0.2] * 4, [0.0] * 4])
    given = terms([0.0, 0.0], None, [1.0, 1.0], moves=moves)
    # mean - old mean 0.1, move 0.2: (0.1 - 0.2)^2 / 0.2^2
    assert distance_to_guided(given).tolist() == pytest.approx([0.25, 0.0])
    assert GRPO(distil=2.0)(given).loss.item() == pytest.approx(2 * 0.25 / 2)
    assert GRPO(distil=2.0).needs == {"old_mean", "moves"} and GRPO().needs == frozenset()
