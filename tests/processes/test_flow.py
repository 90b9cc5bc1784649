"""Rectified flow: identities and the Gaussian whose velocity is known exactly."""

import pytest
import torch

from visalign.processes import Flow
from visalign.processes.times import sample_unit_times, shift_times


def make(n=4):
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(n, 2, 3, 3, generator=g), torch.randn(n, 2, 3, 3, generator=g)
    return x0, noise, torch.linspace(0.1, 0.9, n)


def test_ends_of_the_path_are_data_and_noise():
    x0, noise, _ = make()
    flow = Flow()
    torch.testing.assert_close(flow.add_noise(x0, noise, torch.zeros(4)), x0)
    torch.testing.assert_close(flow.add_noise(x0, noise, torch.ones(4)), noise)


def test_true_velocity_gives_back_data_and_noise():
    x0, noise, t = make()
    flow = Flow()
    x_t, v = flow.add_noise(x0, noise, t), flow.target(x0, noise, t)
    torch.testing.assert_close(v, noise - x0)
    torch.testing.assert_close(flow.x0_from(v, x_t, t), x0)
    torch.testing.assert_close(flow.noise_from(v, x_t, t), noise)
    torch.testing.assert_close(flow.score_from(v, x_t, t), -noise / t.view(-1, 1, 1, 1))


def test_known_noise_taken_out_leaves_the_data():
    x0, noise, t = make()
    torch.testing.assert_close(Flow().without_noise(Flow().add_noise(x0, noise, t), noise, t), x0)


def test_one_euler_step_with_the_true_velocity_stays_on_the_path():
    x0, noise, t = make()
    flow = Flow()
    stepped = flow.step(flow.target(x0, noise, t), flow.add_noise(x0, noise, t), t, t / 2)
    torch.testing.assert_close(stepped, flow.add_noise(x0, noise, t / 2))


def test_video_latents_with_a_frame_axis():
    x0 = torch.randn(2, 4, 3, 2, 2)
    assert Flow().add_noise(x0, x0, torch.tensor([0.2, 0.7])).shape == x0.shape


def test_shift_three_at_one_half_is_three_quarters():
    # 3 * 0.5 / (1 + 2 * 0.5) = 0.75
    assert shift_times(torch.tensor(0.5), 3.0).item() == pytest.approx(0.75)
    schedule = Flow(shift=3.0).schedule(4)
    assert schedule[0] == 1 and schedule[-1] == 0 and (schedule.diff() < 0).all()


def test_network_is_given_a_thousand_t():
    assert Flow().network_time(torch.tensor([0.25])).item() == 250


def test_score_is_the_gradient_of_a_gaussian_marginal():
    # data N(m, s2): x_t ~ N((1-t) m, (1-t)^2 s2 + t^2); the exact velocity must give score -(x - mean) / var
    m, s2, t = 0.7, 0.25, torch.tensor([0.3])
    x = torch.tensor([[[[1.1]]]])
    mean, var = 0.7 * m, 0.49 * s2 + 0.09
    torch.testing.assert_close(Flow().score_from(exact_velocity(x, t, m, s2), x, t), -(x - mean) / var)


def exact_velocity(x, t, m, s2):
    t = t.view(-1, 1, 1, 1)
    x0 = m + (1 - t) * s2 / ((1 - t) ** 2 * s2 + t**2) * (x - (1 - t) * m)
    return (x - (1 - t) * x0) / t - x0


def test_integrating_the_exact_velocity_returns_the_gaussian():
    flow, m, s2 = Flow(), 1.5, 0.36
    x = torch.randn(20000, 1, 1, 1, generator=torch.Generator().manual_seed(1))
    times = flow.schedule(400)
    for now, then in zip(times[:-1], times[1:], strict=True):
        x = flow.step(exact_velocity(x, now.repeat(len(x)), m, s2), x, now.repeat(len(x)), then.repeat(len(x)))
    assert x.mean().item() == pytest.approx(m, abs=0.015)
    assert x.std().item() == pytest.approx(s2**0.5, abs=0.015)


@pytest.mark.parametrize("sampling, mean", [("uniform", 0.5), ("shifted", 0.676)])
def test_time_samplers_have_their_means(sampling, mean):
    # shifted uniform with s=3: integral of 3t/(1+2t) over (0,1) = 3/2 - 3/4 ln 3 = 0.6760
    t = sample_unit_times(40000, sampling, 3.0, torch.Generator().manual_seed(0))
    assert t.mean().item() == pytest.approx(mean, abs=0.01)
    assert t.min() > 0 and t.max() < 1


def test_logit_normal_has_more_mass_in_the_middle_than_uniform():
    t = sample_unit_times(40000, "logit_normal", 1.0, torch.Generator().manual_seed(0))
    # P(|logit| < ln 3) with a standard normal logit = 2 Phi(1.0986) - 1 = 0.728
    assert ((t > 0.25) & (t < 0.75)).float().mean().item() == pytest.approx(0.728, abs=0.01)


def test_shifted_logit_normal_has_the_quantiles_worked_out_by_hand():
    # quantiles of the logit-normal at z = -1, 0, 1 are 0.26894, 0.5, 0.73106; 3 t / (1 + 2 t) moves them to
    # 0.80682 / 1.53788 = 0.52463, 1.5 / 2 = 0.75 and 2.19318 / 2.46212 = 0.89077
    t = sample_unit_times(40000, "logit_normal", 3.0, torch.Generator().manual_seed(0))
    found = t.quantile(torch.tensor([0.158655, 0.5, 0.841345]))
    assert found.tolist() == pytest.approx([0.52463, 0.75, 0.89077], abs=0.006)


def test_unknown_sampler_is_named():
    with pytest.raises(ValueError, match="cosine"):
        sample_unit_times(1, "cosine", 1.0, torch.Generator())


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_target_at_a_noised_point_is_the_target(dtype, atol):
    x0, noise, t = (each.to(dtype) for each in make())
    flow = Flow()
    found = flow.target_at(x0, flow.add_noise(x0, noise, t), t)
    assert found.dtype == dtype
    torch.testing.assert_close(found, flow.target(x0, noise, t), atol=atol, rtol=0)


def test_target_at_any_point_leads_straight_to_the_data():
    # by hand: x0 1, x_t 0.4, t 0.4 -> (0.4 - 1) / 0.4 = -1.5, and 0.4 - 0.4 * -1.5 = 1
    flow, x0, x_t, t = Flow(), torch.ones(1, 1), torch.full((1, 1), 0.4), torch.tensor([0.4])
    assert flow.target_at(x0, x_t, t).item() == pytest.approx(-1.5)
    assert flow.x0_from(flow.target_at(x0, x_t, t), x_t, t).item() == pytest.approx(1.0)
    assert flow.step(flow.target_at(x0, x_t, t), x_t, t, torch.zeros(1)).item() == pytest.approx(1.0)
