"""Variance-preserving diffusion: identities of epsilon, v and DDIM."""

import pytest
import torch

from visalign.processes import Diffusion
from visalign.processes.steps import draw, normal_log_prob

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)


def process(kind="epsilon"):
    return Diffusion(ALPHAS_CUMPROD, kind)


def make(n=4):
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(n, 2, 3, 3, generator=g), torch.randn(n, 2, 3, 3, generator=g)
    return x0, noise, torch.tensor([0, 250, 600, 999][:n])


def test_alpha_and_sigma_lie_on_the_unit_circle():
    _, _, t = make()
    ones = torch.ones(4, 1, 1, 1)
    alpha, sigma = (process().add_noise(a * ones, b * ones, t) for a, b in ((1, 0), (0, 1)))
    torch.testing.assert_close(alpha**2 + sigma**2, ones)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_true_prediction_gives_back_data_and_noise(kind):
    x0, noise, t = make()
    diffusion = process(kind)
    x_t, prediction = diffusion.add_noise(x0, noise, t), diffusion.target(x0, noise, t)
    torch.testing.assert_close(diffusion.x0_from(prediction, x_t, t), x0, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(diffusion.noise_from(prediction, x_t, t), noise, atol=2e-5, rtol=1e-4)


def test_known_noise_taken_out_leaves_the_data():
    x0, noise, t = make()
    found = process().without_noise(process().add_noise(x0, noise, t), noise, t)
    torch.testing.assert_close(found, x0, atol=2e-5, rtol=1e-4)


def test_v_target_is_alpha_noise_minus_sigma_data():
    x0, noise, t = torch.ones(1, 1, 1, 1), 2 * torch.ones(1, 1, 1, 1), torch.tensor([500])
    alpha, sigma = ALPHAS_CUMPROD[500].sqrt(), (1 - ALPHAS_CUMPROD[500]).sqrt()
    torch.testing.assert_close(process("v_prediction").target(x0, noise, t).flatten()[0], alpha * 2 - sigma)


def test_ddim_with_the_true_noise_stays_on_the_path():
    x0, noise, t = make(3)
    t, t_next = t + 100, t
    diffusion = process()
    step = diffusion.moments(noise, diffusion.add_noise(x0, noise, t), t, t_next)
    torch.testing.assert_close(step.mean, diffusion.add_noise(x0, noise, t_next), atol=1e-5, rtol=1e-4)
    assert (step.std == 0).all()


def test_ddim_to_minus_one_returns_clean_data():
    x0, noise, _ = make(1)
    diffusion, t = process(), torch.tensor([700])
    sample = diffusion.moments(noise, diffusion.add_noise(x0, noise, t), t, torch.tensor([-1])).mean
    torch.testing.assert_close(sample, x0, atol=1e-5, rtol=1e-4)


def test_ddim_eta_one_has_the_ancestral_variance():
    # DDPM posterior variance: beta~ = (1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s)
    t, s = torch.tensor([500]), torch.tensor([480])
    ab_t, ab_s = ALPHAS_CUMPROD[500], ALPHAS_CUMPROD[480]
    x = torch.zeros(1, 1, 1, 1)
    step = process().moments(x, x, t, s, "ddim", 1.0)
    torch.testing.assert_close(step.std[0] ** 2, (1 - ab_s) / (1 - ab_t) * (1 - ab_t / ab_s))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_sampling_a_gaussian_with_its_exact_score_returns_it(eta):
    # data N(m, s2): E[eps | x] = sigma (x - alpha m) / (alpha^2 s2 + sigma^2)
    diffusion, m, s2, g = process(), 0.8, 0.25, torch.Generator().manual_seed(3)
    x = torch.randn(20000, 1, 1, 1, generator=g)
    times = diffusion.schedule(250)
    alpha_end = ALPHAS_CUMPROD[999].sqrt()
    x = alpha_end * m + x * (alpha_end**2 * s2 + 1 - ALPHAS_CUMPROD[999]).sqrt()
    for now, then in zip(times[:-1], times[1:], strict=True):
        ab = ALPHAS_CUMPROD[now]
        eps = (1 - ab).sqrt() * (x - ab.sqrt() * m) / (ab * s2 + 1 - ab)
        moments = diffusion.moments(eps, x, now.repeat(len(x)), then.repeat(len(x)), "ddim", eta)
        x = draw(moments, torch.randn(x.shape, generator=g))
    assert x.mean().item() == pytest.approx(m, abs=0.02)
    assert x.std().item() == pytest.approx(s2**0.5, abs=0.02)


def test_training_times_are_integers_in_range():
    t = process().sample_times(5000, "uniform", torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64 and t.min() >= 0 and t.max() <= 999


def test_unknown_prediction_type_is_named():
    with pytest.raises(ValueError, match="sample"):
        Diffusion(ALPHAS_CUMPROD, "sample")


def test_ddim_hand_number_with_its_log_prob():
    # ab .5, ab' .7, x 1, eps .2, eta 1: x0 1.214214, std .414039, mu 1.087598; x' .9 -> log p -0.139790
    diffusion = Diffusion(torch.tensor([0.7, 0.5], dtype=torch.float64))
    x, eps = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1, 1), 0.2, dtype=torch.float64)
    mean, std = diffusion.moments(eps, x, torch.tensor([1]), torch.tensor([0]), "ddim", 1.0)
    assert diffusion.x0_from(eps, x, torch.tensor([1])).item() == pytest.approx(1.214214, abs=1e-6)
    assert std.item() == pytest.approx(0.414039, abs=1e-6) and mean.item() == pytest.approx(1.087598, abs=1e-6)
    assert normal_log_prob(torch.full_like(x, 0.9), mean, std).item() == pytest.approx(-0.139790, abs=1e-6)


def test_the_step_to_clean_data_has_no_log_prob():
    x = torch.randn(2, 1, 2, 2)
    mean, std = process().moments(x, x, torch.tensor([10, 10]), torch.tensor([-1, -1]), "ddim", 1.0)
    assert (std == 0).all() and normal_log_prob(x, mean, std).isnan().all()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_target_at_a_noised_point_is_the_target(kind, dtype, atol):
    x0, noise, t = make()
    x0, noise, diffusion = x0.to(dtype), noise.to(dtype), process(kind)
    found = diffusion.target_at(x0, diffusion.add_noise(x0, noise, t), t)
    assert found.dtype == dtype
    torch.testing.assert_close(found, diffusion.target(x0, noise, t), atol=atol, rtol=0)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_target_at_any_point_leads_straight_to_the_data(kind):
    x0, x_t, t = make()
    diffusion = process(kind)
    torch.testing.assert_close(diffusion.x0_from(diffusion.target_at(x0, x_t, t), x_t, t), x0, atol=1e-4, rtol=1e-4)


def test_target_at_by_hand():
    # alphas_cumprod 0.64: alpha 0.8, sigma 0.6; x0 1, x_t 1.4 -> eps = (1.4 - 0.8) / 0.6 = 1, v = 0.8 - 0.6
    x0, x_t, t = torch.ones(1, 1), torch.full((1, 1), 1.4), torch.tensor([0])
    for kind, expected in (("epsilon", 1.0), ("v_prediction", 0.2)):
        found = Diffusion(torch.tensor([0.64]), kind).target_at(x0, x_t, t).item()
        assert found == pytest.approx(expected, abs=1e-6)
