"""Forward-process methods and reward back-propagation: gradients at the start, toy optima, schedules."""

import math

import pytest
import torch

from visalign.objectives.backprop import DRaFT
from visalign.objectives.forward import AWM, RAFT, DiffusionNFT
from visalign.objectives.online import NoisedTerms, RewardTerms
from visalign.objectives.policy import D3PO
from visalign.processes import Flow

FLOW = Flow()


def terms(prediction, old, advantage, ref=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(prediction.shape, generator=g, dtype=torch.float64) for _ in range(2))
    t = torch.linspace(0.2, 0.9, len(prediction), dtype=torch.float64)
    x_t = FLOW.add_noise(x0, noise, t)
    return NoisedTerms(advantage=advantage, x0=x0, x_t=x_t, noise_fraction=t, target=noise - x0, prediction=prediction,
                       old_prediction=old, ref_prediction=ref, x0_of=lambda v: FLOW.x0_from(v, x_t, t))


def velocity(n=3, seed=1):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mixing", [1.0, 0.1])
def test_nft_gradient_at_the_old_policy_is_advantage_times_weighted_matching(mixing):
    v = velocity().requires_grad_(True)
    advantage = torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64)
    one = terms(v, v.detach(), advantage)
    gradient = torch.autograd.grad(DiffusionNFT(mixing=mixing, beta_kl=0)(one).loss, v)[0]
    error = (one.x0_of(v) - one.x0)
    weight = error.abs().flatten(1).mean(1).detach()
    matching = (advantage * error.square().flatten(1).mean(1) / weight).mean()
    torch.testing.assert_close(gradient, torch.autograd.grad(matching, v)[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("mixing, optimum", [(1.0, 2.04444), (0.1, 8.44444)])
def test_nft_toy_optimum(mixing, optimum):
    # u = (0,1,3), r = (.2,.5,.9), v_old = 4/3, without the self-weighting: minimise over one v by calculus
    u, r, old = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.2, 0.5, 0.9]), 4 / 3
    assert old + 2 / mixing * ((r * u).mean() - r.mean() * old) == pytest.approx(optimum, abs=1e-4)
    v = torch.tensor(optimum, requires_grad=True)
    good, bad = mixing * v + (1 - mixing) * old, (1 + mixing) * old - mixing * v
    loss = ((r * (good - u) ** 2 + (1 - r) * (bad - u) ** 2) / mixing).mean()
    assert torch.autograd.grad(loss, v)[0].item() == pytest.approx(0, abs=1e-3)


def test_nft_branches_meet_at_the_old_policy_and_zero_advantage_pulls_back():
    v = velocity()
    outcome = DiffusionNFT(beta_kl=0)(terms(v, v, torch.zeros(3, dtype=torch.float64)))
    torch.testing.assert_close(outcome.metrics["good_error"], outcome.metrics["bad_error"])
    away = (v + 0.1).requires_grad_(True)
    gradient = torch.autograd.grad(
        DiffusionNFT(beta_kl=0)(terms(away, v, torch.zeros(3, dtype=torch.float64))).loss, away)[0]
    assert ((gradient * (away - v)).sum() > 0)


def test_old_policy_schedules():
    slow, late, none = DiffusionNFT(decay="slow"), DiffusionNFT(decay="late"), DiffusionNFT(decay="none")
    assert [slow.old_decay(n) for n in (100, 900)] == pytest.approx([0.1, 0.5])
    assert [late.old_decay(n) for n in (74, 175, 400)] == pytest.approx([0, 0.75, 0.999])
    assert none.old_decay(500) == 0
    assert [AWM().old_decay(n) for n in (0, 500, 5000)] == pytest.approx([0, 0.15, 0.3])


@pytest.mark.parametrize("weighting", ["uniform", "linear", "square", "huber", "ghuber"])
def test_awm_starts_at_ratio_one_with_the_gradient_of_its_weight(weighting):
    v = velocity().requires_grad_(True)
    advantage = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    one, method = terms(v, v.detach(), advantage), AWM(weighting=weighting, beta_kl=0)
    outcome = method(one)
    assert outcome.metrics["ratio"].tolist() == [1, 1, 1]
    error = (v - one.target).square().flatten(1).mean(1)
    expected = torch.autograd.grad((advantage * method.weighted_error(error, one.noise_fraction)).mean(), v)[0]
    torch.testing.assert_close(torch.autograd.grad(outcome.loss, v)[0], expected, atol=1e-6, rtol=1e-4)


def test_awm_weights_by_hand():
    error, t = torch.tensor([0.16]), torch.tensor([0.5])
    found = {w: AWM(weighting=w).weighted_error(error, t).item() for w in ("uniform", "linear", "square", "huber",
                                                                           "ghuber")}
    assert found["uniform"] == pytest.approx(0.16) and found["linear"] == pytest.approx(0.08)
    assert found["square"] == pytest.approx(0.04)
    assert found["huber"] == pytest.approx(0.5 * (0.4 - 1e-5), abs=1e-6)
    assert found["ghuber"] == pytest.approx(2 * (0.16**0.25 - 1e-10**0.25), abs=1e-6)


def test_awm_with_equal_advantages_is_weighted_flow_matching():
    v = velocity().requires_grad_(True)
    one = terms(v, v.detach(), torch.ones(3, dtype=torch.float64))
    gradient = torch.autograd.grad(AWM(weighting="uniform", beta_kl=0)(one).loss, v)[0]
    plain = torch.autograd.grad((v - one.target).square().flatten(1).mean(1).mean(), v)[0]
    torch.testing.assert_close(gradient, plain, atol=1e-6, rtol=1e-5)


def test_pulls_to_reference_and_old_are_gradients_towards_them():
    v = velocity().requires_grad_(True)
    still = torch.zeros(3, dtype=torch.float64)
    for method, old, ref in ((AWM(beta_old=2.0, beta_kl=0), v.detach() - 1, None),
                             (AWM(beta_old=0, beta_kl=2.0), v.detach(), v.detach() - 1),
                             (DiffusionNFT(beta_kl=2.0, advantage_max=1e-9), v.detach(), v.detach() - 1)):
        gradient = torch.autograd.grad(method(terms(v, old, still, ref)).loss, v)[0]
        torch.testing.assert_close(gradient, torch.full_like(v, 2 * 2.0 / v[0].numel() / 3), atol=1e-5, rtol=1e-3)


def test_raft_takes_the_best_above_the_mean():
    advantages = torch.tensor([0.5, -1.0, 1.5, 0.0, 0.0, math.nan])
    groups, trained = torch.tensor([0, 0, 0, 1, 1, 1]), torch.ones(6, dtype=bool)
    assert RAFT().select(advantages, trained, groups) == [(2,)]
    assert RAFT(keep=2).select(advantages, trained, groups) == [(0,), (2,)]


def test_group_draws_keep_groups_whole():
    advantages = torch.tensor([0.5, -1.0, 0.0, 0.0, 1.0, math.nan, -1.0, 1.0])
    groups, trained = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), advantages.nan_to_num(0.0) != 0
    grouped = DiffusionNFT(draws="group")
    # group 1 teaches nothing, and group 2 lacks a reward
    assert grouped.select(advantages, trained, groups) == [(0, 1), (6, 7)] and grouped.unit_size(2) == 2
    assert DiffusionNFT().select(advantages, trained, groups) == [(0,), (1,), (4,), (6,), (7,)]
    assert DiffusionNFT().unit_size(2) == 1 and D3PO().unit_size(8) == 2


def test_draft_is_the_reward_s_own_gradient():
    weights = torch.randn(6, dtype=torch.float64)
    x = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    outcome = DRaFT(scale=3.0)(RewardTerms(x @ weights, x, None))
    torch.testing.assert_close(torch.autograd.grad(outcome.loss, x)[0], -3.0 * weights.expand(2, -1) / 2)


@pytest.mark.parametrize("build", [lambda: DiffusionNFT(mixing=0), lambda: AWM(clip=0), lambda: AWM(decay_max=1),
                                   lambda: RAFT(keep=0), lambda: DRaFT(last_steps=0), lambda: RAFT(times=0),
                                   lambda: RAFT(noisiest=0), lambda: RAFT(time_shift=0), lambda: RAFT(draws="group"),
                                   lambda: AWM(draws="group", best_of=2)])
def test_settings_that_make_no_sense_are_refused(build):
    with pytest.raises((ValueError, TypeError)):
        build()
