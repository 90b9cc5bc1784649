"""Likelihood methods: ratios, clipping, Guard's identities, D3PO's log 2."""

import math

import pytest
import torch

from visalign.objectives.online import StepTerms, clipped_surrogate
from visalign.objectives.policy import D3PO, GRPO, FlowDPPO, GRPOGuard, kl_to_reference
from visalign.processes import Flow
from visalign.processes.steps import normal_log_prob, sensitivity

FLOW = Flow()


def terms(v_theta, v_old, x, z, t, t_next, level=0.7, advantage=None, v_ref=None, sampler="flow_sde", **more):
    """Real terms of one stochastic step in float64."""
    where = (x, t, t_next, sampler, level)
    old, new = FLOW.moments(v_old, *where), FLOW.moments(v_theta, *where)
    sample = (old.mean + old.std.view(-1, 1, 1, 1) * z).detach()
    ref = None if v_ref is None else FLOW.moments(v_ref, *where).mean
    return StepTerms(
        advantage=torch.ones(len(x), dtype=x.dtype) if advantage is None else advantage,
        log_prob=normal_log_prob(sample, new.mean, new.std), old_log_prob=normal_log_prob(sample, *old).detach(),
        sample=sample, mean=new.mean, old_mean=old.mean.detach(), std=old.std, h=t - t_next,
        sensitivity=sensitivity(FLOW, *where), prediction=v_theta, ref_mean=ref, ref_prediction=v_ref,
        ref_log_prob=None if ref is None else normal_log_prob(sample, ref, old.std), **more)


def tensors(count, n=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 2, 4, 4, generator=g, dtype=torch.float64) for _ in range(count)]


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("advantage, ratio, gradient", [
    (1.0, 1.3, 0.0), (1.0, 0.7, -1.0), (-1.0, 1.3, 1.0), (-1.0, 0.7, 0.0), (1.0, 1.05, -1.0), (-1.0, 0.95, 1.0)])
def test_clip_gradient_is_zero_only_beyond_the_bound_in_the_wanted_direction(advantage, ratio, gradient):
    rho = torch.tensor([ratio], requires_grad=True)
    clipped_surrogate(torch.tensor([advantage]), rho, 0.1, 0.1).sum().backward()
    assert rho.grad.item() == pytest.approx(gradient)


@pytest.mark.parametrize("objective", [GRPO(), GRPOGuard(), FlowDPPO()])
def test_at_the_old_policy_every_ratio_is_one(objective):
    x, v, z = tensors(3, n=3)
    outcome = objective(terms(v, v, x, z, times(1.0, 0.6, 0.2), times(0.9, 0.5, 0.1)))
    assert outcome.metrics["ratio"].tolist() == [1.0, 1.0, 1.0]
    assert outcome.metrics["approx_kl"].abs().max() == 0


def test_at_the_old_policy_the_gradient_is_reinforce():
    # d loss / d v = -A d log p / d v
    x, v, z = tensors(3)
    v.requires_grad_(True)
    one = terms(v, v.detach(), x, z, times(0.6), times(0.5), advantage=times(1.7))
    torch.testing.assert_close(torch.autograd.grad(GRPO()(one).loss, v, retain_graph=True)[0],
                               -1.7 * torch.autograd.grad(one.log_prob.sum(), v)[0])


def test_ratio_shifts_left_without_guard_and_not_with_it():
    # log rho = mean(z D)/std - mean(D^2)/(2 std^2): its mean over z is the shift; Guard's is 0
    n = 10_000
    x, v = tensors(2)
    d = 0.02 * torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    z = torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    many = terms((v + d).expand(n, -1, -1, -1), v.expand(n, -1, -1, -1), x.expand(n, -1, -1, -1), z,
                 times(0.2).expand(n), times(0.1).expand(n))
    plain, guarded = GRPO().log_ratio(many), GRPOGuard().log_ratio(many)
    shift = -((many.mean - many.old_mean)[0].square().mean() / (2 * many.std[0] ** 2))
    error = guarded.std() / n**0.5
    assert abs(guarded.mean()) < 3 * error
    assert plain.mean().item() == pytest.approx(shift.item(), abs=3 * (plain.std() / n**0.5).item())
    torch.testing.assert_close(guarded, ((many.mean - many.old_mean) * z).flatten(1).mean(1), atol=1e-9, rtol=1e-6)


def test_guard_gives_every_noise_level_the_same_gradient():
    sizes = []
    for t, t_next in ((1.0, 0.9), (0.9, 0.75), (0.5, 0.4), (0.2, 0.15), (0.1, 0.0)):
        x, v, z = tensors(3, seed=3)
        v.requires_grad_(True)
        one = terms(v, v.detach(), x, z, times(t), times(t_next))
        sizes.append(torch.autograd.grad(GRPOGuard()(one).loss, v)[0].norm().item())
    assert max(sizes) / min(sizes) == pytest.approx(1, abs=1e-6)
    plain = []
    for t, t_next in ((0.9, 0.75), (0.1, 0.02)):
        x, v, z = tensors(3, seed=3)
        v.requires_grad_(True)
        one = terms(v, v.detach(), x, z, times(t), times(t_next))
        plain.append(torch.autograd.grad(GRPO()(one).loss, v)[0].norm().item())
    assert max(plain) / min(plain) > 1.5


def test_dppo_stops_a_sample_that_has_moved_far_enough():
    x, v, z = tensors(3)
    drawn = z  # a velocity whose mean moves towards the sample raises the ratio
    where = (x, times(0.6), times(0.5), "flow_sde", 0.7)
    slope = -sensitivity(FLOW, *where)
    nearer = (v + 0.3 * FLOW.moments(v, *where).std * drawn / slope).requires_grad_(True)
    for advantage, divergence, stopped in ((1.0, 1e-5, True), (1.0, 10.0, False), (-1.0, 1e-5, False)):
        one = terms(nearer, v, x, z, *where[1:3], advantage=times(advantage))
        assert (one.log_prob > one.old_log_prob).all()
        gradient = torch.autograd.grad(FlowDPPO(divergence=divergence)(one).loss, nearer)[0]
        assert (gradient.norm() == 0) is torch.tensor(stopped).item() or (gradient.norm() == 0).item() is stopped


def test_forms_of_the_kl():
    x, v, w, z = tensors(4)
    one = terms(v, v, x, z, times(0.5), times(0.4), v_ref=w)
    dmu = (one.mean - one.ref_mean).square().mean()
    g2 = 0.49 * 0.5 / 0.5
    assert kl_to_reference(one, "closed").item() == pytest.approx((dmu / (2 * g2 * 0.1)).item())
    assert kl_to_reference(one, "step_scaled").item() == pytest.approx((dmu / (2 * g2)).item())
    assert kl_to_reference(one, "velocity").item() == pytest.approx((v - w).square().mean().item())


def test_early_kl_has_no_variance_and_ends_after_its_steps():
    x, v, w, z = tensors(4)
    apart = []
    for step, (t, t_next) in enumerate(((1.0, 0.9), (0.9, 0.7), (0.7, 0.4))):
        one = terms(v, v, x, z, times(t), times(t_next), v_ref=w, step=torch.tensor([step]))
        apart.append((one.mean - one.ref_mean).square().mean().item())
        outcome = GRPO(beta=0.5, kl="early", kl_steps=2)(one)
        assert outcome.metrics["kl"].item() == pytest.approx(apart[-1] if step < 2 else 0.0)
        assert outcome.loss.item() == pytest.approx(-1 + 0.5 * outcome.metrics["kl"].item())
        # the closed KL is the same distance in units of the step's own noise
        assert kl_to_reference(one, "closed").item() == pytest.approx(apart[-1] / (2 * one.std.item() ** 2))
    assert min(apart) > 0


def test_early_kl_reaches_the_policy_at_its_steps_alone():
    x, v, z = tensors(3)
    v.requires_grad_(True)
    for step, moves in ((0, True), (1, False)):
        one = terms(v, v.detach(), x, z, times(0.5), times(0.4), advantage=times(0.0), v_ref=v.detach() + 1,
                    step=torch.tensor([step]))
        gradient = torch.autograd.grad(GRPO(beta=1.0, kl="early", kl_steps=1)(one).loss, v)[0]
        assert bool(gradient.norm() > 0) is moves


@pytest.mark.parametrize("settings, message", [
    ({"kl": "early", "beta": 0.1}, "kl_steps, at least 1"), ({"kl_steps": 2, "beta": 0.1}, "no other form of it takes"),
    ({"kl": "early", "kl_steps": 2}, "early without beta")])
def test_early_kl_needs_its_steps_and_a_weight(settings, message):
    with pytest.raises(ValueError, match=message):
        GRPO(**settings)


def test_kl_reaches_the_policy_and_vanishes_at_the_reference():
    x, v, z = tensors(3)
    v.requires_grad_(True)
    one = terms(v, v.detach(), x, z, times(0.5), times(0.4), advantage=times(0.0), v_ref=v.detach())
    outcome = GRPO(beta=1.0)(one)
    assert outcome.metrics["kl"].item() == 0
    away = terms(v, v.detach(), x, z, times(0.5), times(0.4), advantage=times(0.0), v_ref=v.detach() + 1)
    assert torch.autograd.grad(GRPO(beta=1.0)(away).loss, v)[0].norm() > 0


TEMPFLOW = (2.224, 2.110, 1.407, 1.074, 0.861, 0.703, 0.574, 0.460, 0.352, 0.234)
"""Weights of ten steps of an unshifted Flow-SDE at noise level 0.7."""


def weighed(sampler="flow_sde", level=0.7, **settings):
    """The outcomes of each of ten steps at the old policy with advantage 1, and the gradients of the velocity."""
    grid, found = Flow().schedule(10).double(), []
    for j in range(10):
        x, v, w, z = tensors(4, seed=j)
        where = (x, grid[j:j + 1], grid[j + 1:j + 2], sampler, level)
        stds = Flow().moments(torch.zeros(10, 1), torch.zeros(10, 1), grid[:-1], grid[1:], sampler, level).std
        one = terms(v.requires_grad_(True), v.detach(), x, z, *where[1:3], level=level, sampler=sampler, v_ref=w,
                    mean_std=stds.mean()[None])
        outcome = GRPO(**settings)(one)
        found.append((outcome, torch.autograd.grad(outcome.loss, v)[0]))
    return found


def test_tempflow_weighs_steps_by_their_noise():
    found, plain = weighed(step_weight="noise"), weighed()
    weights = [outcome.metrics["step_weight"].item() for outcome, _ in found]
    assert weights == pytest.approx(TEMPFLOW, abs=6e-4) and sum(weights) / 10 == pytest.approx(1)
    for weight, (outcome, gradient), (same, bare) in zip(weights, found, plain, strict=True):
        assert outcome.loss.item() == pytest.approx(weight * same.loss.item())
        torch.testing.assert_close(gradient, weight * bare)
        assert torch.equal(outcome.metrics["policy_loss"], same.metrics["policy_loss"])


def test_steps_of_equal_noise_weigh_one():
    found, plain = weighed("dance_sde", 0.3, step_weight="noise"), weighed("dance_sde", 0.3)
    for (outcome, gradient), (_, bare) in zip(found, plain, strict=True):
        assert outcome.metrics["step_weight"].item() == pytest.approx(1, abs=1e-6)
        torch.testing.assert_close(gradient, bare)


def test_without_weights_nothing_changes_and_the_kl_is_never_weighed():
    for (none, gradient), (left_out, same) in zip(weighed(step_weight="none"), weighed(), strict=True):
        assert torch.equal(none.loss, left_out.loss) and torch.equal(gradient, same)
        assert "step_weight" not in none.metrics
    for (outcome, _), (same, _) in zip(weighed(step_weight="noise", beta=0.5), weighed(step_weight="noise"),
                                       strict=True):
        assert outcome.loss.item() == pytest.approx(same.loss.item() + 0.5 * outcome.metrics["kl"].item())


def test_guard_refuses_weights_that_undo_it():
    with pytest.raises(ValueError, match="step_weight noise favours noisy steps, and grpo_guard gives every step"):
        GRPOGuard(step_weight="noise")


def test_d3po_is_log_two_at_the_reference_and_has_a_gradient():
    x, v, z = tensors(3, n=2)
    v.requires_grad_(True)
    one = terms(v, v.detach(), x, z, times(0.5, 0.5), times(0.4, 0.4), v_ref=v.detach())
    outcome = D3PO()(one)
    assert outcome.loss.item() == pytest.approx(math.log(2))
    gradient = torch.autograd.grad(outcome.loss, v, retain_graph=True)[0]
    # d loss / d log p_w = -beta/2, d loss / d log p_l = +beta/2
    expected = torch.autograd.grad((-0.05 * one.log_prob[0] + 0.05 * one.log_prob[1]), v)[0]
    torch.testing.assert_close(gradient, expected)


def test_d3po_stops_at_its_clip():
    x, v, z = tensors(3, n=2)
    moved = (v + 2.0).requires_grad_(True)
    one = terms(moved, v, x, z, times(0.5, 0.5), times(0.4, 0.4), v_ref=v)
    assert (one.log_prob - one.ref_log_prob).abs().min() > 0.11
    assert torch.autograd.grad(D3PO()(one).loss, moved)[0].norm() == 0


def test_d3po_pairs_best_and_worst_of_each_group_and_skips_ties():
    groups, nan = torch.tensor([0, 0, 0, 0, 1, 1]), math.nan
    advantages = torch.tensor([0.1, -1.0, 2.0, nan, 0.5, 0.5])
    trained = ~advantages.isnan()
    assert D3PO().select(advantages, trained, groups) == [(2, 1)]
    more = torch.tensor([0.1, -1.0, 2.0, 0.3, 0.5, 0.4])
    assert D3PO(pairs_per_group=2).select(more, torch.ones(6, dtype=bool), groups) == [(2, 1), (3, 0), (4, 5)]


def test_best_of_keeps_the_extremes_of_each_group():
    advantages = torch.tensor([0.0, 3.0, -2.0, 1.0, -1.0, 5.0, 4.0])
    groups, trained = torch.tensor([0] * 5 + [1] * 2), torch.ones(7, dtype=bool)
    assert GRPO(best_of=2).select(advantages, trained, groups) == [(1,), (2,), (5,), (6,)]
    assert GRPO().select(advantages, trained, groups) == [(i,) for i in range(7)]


@pytest.mark.parametrize("build", [lambda: GRPO(clip=0), lambda: GRPO(beta=-1), lambda: GRPO(best_of=3),
                                   lambda: FlowDPPO(divergence=0), lambda: D3PO(beta=0), lambda: D3PO(best_of=2)])
def test_settings_that_make_no_sense_are_refused(build):
    with pytest.raises(ValueError):
        build()
