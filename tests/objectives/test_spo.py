"""SPO: D3PO's loss on the steps that have a pair, and nothing on those that have none."""

import math

import pytest
import torch

from visalign.objectives.online import StepTerms
from visalign.objectives.policy import D3PO
from visalign.objectives.spo import SPO


def terms(log_prob, reference, advantage):
    log_prob = torch.tensor(log_prob, dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(len(log_prob), 1)
    return StepTerms(advantage=torch.tensor(advantage), log_prob=log_prob, old_log_prob=log_prob.detach(),
                     sample=nothing, mean=nothing, old_mean=None, std=torch.ones(len(log_prob)), h=nothing[:, 0],
                     sensitivity=nothing[:, 0], prediction=nothing,
                     ref_log_prob=torch.tensor(reference, dtype=torch.float64))


def test_a_pair_by_hand():
    # log-ratios .02 and -.03, beta 10: z = .5, -log s(.5) = .474077
    one = terms([-1.0, -1.1], [-1.02, -1.07], [1.0, -1.0])
    assert SPO()(one).loss.item() == pytest.approx(0.474077, abs=1e-6)


def test_at_the_reference_it_is_log_two_for_each_pair_and_steps_without_one_count_as_nothing():
    still = terms([-1.0, -1.1, -2.0, -2.1], [-1.0, -1.1, -2.0, -2.1], [1.0, -1.0, 0.0, 0.0])
    outcome = SPO()(still)
    assert outcome.loss.item() == pytest.approx(math.log(2) / 2)
    assert outcome.metrics["decided"].tolist() == [1, 1, 0, 0]
    gradient = torch.autograd.grad(outcome.loss, still.log_prob)[0]
    assert gradient.tolist() == pytest.approx([-10 * 0.5 / 2, 10 * 0.5 / 2, 0, 0])


def test_where_every_step_has_a_pair_it_is_d3po():
    one = terms([-1.0, -1.1, -2.0, -2.3], [-1.05, -1.05, -1.99, -2.0], [1.0, -1.0, 1.0, -1.0])
    a, b = SPO(beta=3.0, clip=0.2)(one), D3PO(beta=3.0, clip=0.2)(one)
    assert a.loss.item() == b.loss.item()
    assert all(torch.equal(a.metrics[name], values) for name, values in b.metrics.items())


def test_every_sample_is_learnt_from_whatever_its_reward():
    advantages = torch.tensor([0.0, math.nan, 2.0])
    assert SPO().select(advantages, advantages != 0, torch.tensor([0, 1, 2])) == [(0,), (1,), (2,)]
