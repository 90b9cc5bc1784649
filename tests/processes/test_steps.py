"""Stochastic steps: hand numbers, identities, and what each sampler does to a Gaussian (exact recursion, no draws)."""

import math

import pytest
import torch
from torch.distributions import Normal

from visalign.processes import Flow
from visalign.processes.steps import draw, normal_log_prob, sensitivity, unnormalised_log_prob
from visalign.processes.times import shift_times

FLOW = Flow()


def one(value):
    return torch.full((1, 1, 1, 1), value, dtype=torch.float64)


def at(value):
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("sampler, level, mean, std, log_prob", [
    ("flow_sde", 0.7, 0.888750, 0.221359, 0.587738), ("dance_sde", 0.3, 0.938750, 0.094868, 1.352907)])
def test_hand_numbers_of_one_step(sampler, level, mean, std, log_prob):
    moments = FLOW.moments(one(0.5), one(1.0), at(0.5), at(0.4), sampler, level)
    assert moments.mean.item() == pytest.approx(mean, abs=1e-6)
    assert moments.std.item() == pytest.approx(std, abs=1e-6)
    assert normal_log_prob(one(0.9), *moments).item() == pytest.approx(log_prob, abs=1e-6)


def test_hand_numbers_of_a_cps_step_and_its_unnormalised_log_prob():
    moments = FLOW.moments(one(0.5), one(1.0), at(0.5), at(0.4), "cps", 0.8)
    assert moments.std.item() == pytest.approx(0.380423, abs=1e-6)
    assert moments.mean.item() == pytest.approx(0.604508, abs=1e-6)
    assert unnormalised_log_prob(one(0.9), *moments).item() == pytest.approx(-((0.9 - 0.604508) ** 2), abs=1e-6)


def test_log_prob_is_torch_s_normal_averaged_over_dimensions():
    mean, sample, std = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5), torch.tensor([0.1, 1.0, 3.0])
    expected = Normal(mean, std.view(-1, 1, 1, 1)).log_prob(sample).flatten(1).mean(1)
    torch.testing.assert_close(normal_log_prob(sample, mean, std), expected, atol=1e-4, rtol=1e-5)


def test_the_power_that_joins_the_two_log_probs():
    # ratio(normal) = ratio(unnormalised) ^ (1 / (2 std^2))
    sample, a, b = (torch.randn(2, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    std = torch.tensor([0.3, 0.8], dtype=torch.float64)
    exact = normal_log_prob(sample, a, std) - normal_log_prob(sample, b, std)
    plain = unnormalised_log_prob(sample, a, std) - unnormalised_log_prob(sample, b, std)
    torch.testing.assert_close(plain / (2 * std**2), exact)


@pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde", "cps"])
def test_without_noise_every_sampler_is_the_euler_step(sampler):
    x, v = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    t, t_next = torch.tensor([1.0, 0.6], dtype=torch.float64), torch.tensor([0.9, 0.35], dtype=torch.float64)
    moments = FLOW.moments(v, x, t, t_next, sampler, 0.0)
    torch.testing.assert_close(moments.mean, x + (t_next - t).view(-1, 1, 1, 1) * v, atol=1e-12, rtol=0)
    assert (moments.std == 0).all() and normal_log_prob(x, *moments).isnan().all()
    assert unnormalised_log_prob(x, *moments).isnan().all()


def test_first_flow_sde_step_has_std_equal_to_the_level():
    # h = 1 - sigma_1 and g^2 = a^2 / (1 - sigma_1), so std = a and mu = x (1 - a^2/2) - h v
    x, v = one(1.3), one(-0.4)
    for first in (0.9, 0.97):
        mean, std = FLOW.moments(v, x, at(1.0), at(first), "flow_sde", 0.7)
        assert std.item() == pytest.approx(0.7, abs=1e-12)
        assert mean.item() == pytest.approx(1.3 * (1 - 0.245) + (1 - first) * 0.4, abs=1e-12)


def test_the_last_cps_step_is_the_denoised_image():
    x, v = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    moments = FLOW.moments(v, x, torch.tensor([0.2]), torch.tensor([0.0]), "cps", 0.8)
    torch.testing.assert_close(moments.mean, FLOW.x0_from(v, x, torch.tensor([0.2])))
    assert moments.std.item() == 0


def gaussian_variance(sampler, level, steps, shift=1.0, m=2.0, s2=0.25):
    """Final mean and variance when the network is exact for N(m, s2): v = k x + c, so a step is affine."""
    mean, variance = 0.0, 1.0
    times = shift_times(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)
    for t, t_next in zip(times[:-1], times[1:], strict=True):
        total = (1 - t) ** 2 * s2 + t**2
        k = (t - (1 - t) * s2) / total
        c = -k * (1 - t) * m - m
        zero, unit = ((FLOW.moments((k * x + c).view(1, 1), x.view(1, 1), t[None], t_next[None], sampler, level))
                      for x in (at(0.0), at(1.0)))
        offset, slope = zero.mean.item(), unit.mean.item() - zero.mean.item()
        mean, variance = slope * mean + offset, slope**2 * variance + zero.std.item() ** 2
    return mean, variance


@pytest.mark.parametrize("sampler, level, expected", [
    ("ode", 0.0, {10: 0.1856, 40: 0.2321, 200: 0.2463, 1000: 0.2493}),
    ("flow_sde", 0.7, {10: 0.2300, 40: 0.2474, 200: 0.2510, 1000: 0.2509}),
    ("dance_sde", 0.3, {10: 0.1950, 40: 0.2348, 200: 0.2469, 1000: 0.2494}),
    ("dance_sde", 1.0, {10: 0.2507, 40: 0.2494, 200: 0.2498, 1000: 0.2500}),
    ("cps", 0.8, {10: 0.1238, 40: 0.1491, 200: 0.1590, 1000: 0.1621})])
def test_what_samplers_make_of_a_gaussian(sampler, level, expected):
    for steps, variance in expected.items():
        mean, found = gaussian_variance(sampler, level, steps)
        assert found == pytest.approx(variance, abs=1e-4)
        assert mean == pytest.approx(2.0, abs=5e-5)


def test_sdes_keep_the_ode_s_marginals_and_cps_does_not():
    assert gaussian_variance("flow_sde", 0.7, 5000)[1] == pytest.approx(0.25, abs=1e-3)
    assert gaussian_variance("dance_sde", 1.0, 5000)[1] == pytest.approx(0.25, abs=1e-4)
    assert gaussian_variance("cps", 0.8, 5000)[1] == pytest.approx(0.1631, abs=1e-4)
    assert gaussian_variance("cps", 1.0, 1000)[1] == pytest.approx(0.1237, abs=1e-4)


@pytest.mark.parametrize("sampler, level, expected", [("ode", 0.0, 0.2485), ("flow_sde", 0.7, 0.2497),
                                                      ("dance_sde", 0.3, 0.2487)])
def test_gaussian_with_shift_three(sampler, level, expected):
    assert gaussian_variance(sampler, level, 1000, shift=3.0)[1] == pytest.approx(expected, abs=1e-4)


def test_a_point_is_reached_exactly_by_ode_and_cps():
    for sampler, level in (("ode", 0.0), ("cps", 0.8)):
        assert gaussian_variance(sampler, level, 10, s2=0.0)[1] == pytest.approx(0, abs=1e-12)
    assert gaussian_variance("flow_sde", 0.7, 10, s2=0.0)[1] == pytest.approx(0.0069, abs=1e-4)
    assert gaussian_variance("dance_sde", 0.3, 10, s2=0.0)[1] == pytest.approx(0.0122, abs=1e-4)


def test_constant_noise_is_unstable_near_data_when_steps_are_many():
    # explicit Euler is stiff there: unstable when h < g^2 / 4 on the last step
    assert gaussian_variance("dance_sde", 0.3, 200, s2=0.0)[1] > 0.1
    assert gaussian_variance("flow_sde", 0.7, 200, s2=0.0)[1] < 1e-4


def test_kl_of_two_steps_in_terms_of_velocities():
    # KL = (h/2) (1/g + g (1-t)/(2t))^2 mean |v - v_ref|^2, t=.6, g=.9, h=.05
    x, v, w = (torch.randn(1, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    t, h, g = 0.6, 0.05, 0.9
    a, b = (FLOW.moments(each, x, at(t), at(t - h), "dance_sde", g) for each in (v, w))
    closed = (a.mean - b.mean).square().mean() / (2 * a.std**2)
    expected = h / 2 * (1 / g + g * (1 - t) / (2 * t)) ** 2 * (v - w).square().mean()
    torch.testing.assert_close(closed.item(), expected.item(), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("sampler, level, t, t_next, expected", [
    ("flow_sde", 0.7, 0.5, 0.4, 0.1 * 1.245), ("flow_sde", 0.7, 0.9, 0.8, 0.1 * 1.245),
    ("dance_sde", 0.3, 0.9, 0.8, 0.1 * 1.005), ("dance_sde", 0.3, 0.5, 0.4, 0.1 * 1.045),
    ("dance_sde", 0.3, 0.1, 0.0, 0.1 * 1.405),
    ("cps", 0.8, 0.5, 0.4, abs(-0.5 * 0.6 + 0.5 * math.sqrt(0.16 - 0.380423**2)))])
def test_sensitivity_of_the_mean_to_the_velocity(sampler, level, t, t_next, expected):
    x = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    assert sensitivity(FLOW, x, at(t), at(t_next), sampler, level).item() == pytest.approx(expected, rel=1e-5)


def test_a_drawn_sample_has_the_step_s_mean_and_std():
    x = torch.zeros(20000, 1, 1, 1)
    moments = FLOW.moments(x, x + 1, torch.full((20000,), 0.5), torch.full((20000,), 0.4), "flow_sde", 0.7)
    drawn = draw(moments, torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert drawn.mean().item() == pytest.approx(moments.mean[0].item(), abs=0.005)
    assert drawn.std().item() == pytest.approx(0.221359, rel=0.02)
