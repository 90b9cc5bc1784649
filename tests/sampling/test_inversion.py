"""Inversion: on networks whose prediction is known, where each step leads and that sampling leads back."""

import contextlib
import math

import pytest
import torch

from visalign.processes import Diffusion, Flow
from visalign.processes.times import per_sample
from visalign.sampling.inversion import inverted

MEAN, STD = 0.5, 0.3
"""Of the data of `Gaussian`, a normal distribution."""


class Known:
    """A generator with a given prediction; remembers the times at which it was asked."""

    def __init__(self, process, predicts):
        self.process, self.predicts, self.asked = process, predicts, []

    def predict(self, x, t, conditioning):
        self.asked.append(t.tolist())
        return self.predicts(x, t)

    @contextlib.contextmanager
    def measuring(self):
        assert not torch.is_grad_enabled()
        yield


def diffusion(kind="epsilon"):
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # as Stable Diffusion
    return Diffusion((1 - betas).cumprod(0), kind)


def gaussian(process):
    """The best prediction where the data are N(MEAN, STD^2)."""
    def predicts(x, t):
        unit, zero = torch.ones(len(t), 1), torch.zeros(len(t), 1)
        alpha, sigma = process.add_noise(unit, zero, t), process.add_noise(zero, unit, t)
        noise = sigma * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return process.target(MEAN + alpha * STD**2 / sigma * noise, noise, t)

    return Known(process, _velocity if process.kind == "flow" else predicts)


def there_and_back(process, times, steps):
    """The largest error of a sample that is inverted to its time and sampled from there."""
    x0, t = MEAN + STD * torch.tensor([[1.0], [-1.5], [0.3]]), torch.tensor(times)
    generator = gaussian(process)
    x = x_t = inverted(generator, x0, t, {}, steps)
    assert (x_t - x0).abs().max() > 0.1
    grid = process.times_up_to(t, steps)
    for then, now in zip(grid[:-1].flip(0), grid[1:].flip(0), strict=True):
        x = process.along(process.direction(generator.predict(x, now, {}), x, now), x, now, then)
    return (x - x0).abs().max().item()


@pytest.mark.parametrize("process, times", [
    (diffusion(), [400, 350, 250]), (diffusion("v_prediction"), [400, 350, 250]), (Flow(), [0.9999, 0.6, 0.05])])
def test_sampling_leads_back_from_where_inversion_led(process, times):
    assert there_and_back(process, times, 200) < 1e-2


def test_from_pure_noise_the_error_falls_with_the_steps():
    assert there_and_back(diffusion(), [999] * 3, 200) < there_and_back(diffusion(), [999] * 3, 50) / 3 < 0.03


def _velocity(x, t):
    """The same for a flow, without dividing by t, which is 0 at data."""
    t = t.view(-1, 1)
    variance = (1 - t) ** 2 * STD**2 + t**2
    return (x - (1 - t) * MEAN) * (t - (1 - t) * STD**2) / variance - MEAN


def test_inversion_carries_the_data_to_the_distribution_of_its_time():
    x0, t = MEAN + STD * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0)), torch.full((20_000,), 700)
    process = diffusion()
    x_t, alpha_bar = inverted(gaussian(process), x0, t, {}, 100), process.alphas_cumprod[700]
    assert x_t.mean().item() == pytest.approx(alpha_bar.sqrt().item() * MEAN, abs=0.02)
    assert x_t.var().item() == pytest.approx((alpha_bar * STD**2 + 1 - alpha_bar).item(), rel=0.05)


@pytest.mark.parametrize("process, times, grids", [
    (diffusion(), [99, 9, 4], [[-1, 19, 39, 59, 79, 99], [-1, 1, 3, 5, 7, 9], [-1, 0, 1, 2, 3, 4]]),
    (Flow(), [0.5, 1.0], [[0, 0.1, 0.2, 0.3, 0.4, 0.5], [0, 0.2, 0.4, 0.6, 0.8, 1.0]])])
def test_steps_of_each_row_are_equally_long_and_end_at_its_own_time(process, times, grids):
    found = process.times_up_to(torch.tensor(times), 5)
    torch.testing.assert_close(found.T, torch.tensor(grids), atol=1e-6, rtol=0)
    assert found[-1].tolist() == torch.tensor(times).tolist()


def test_least_times_let_every_step_be_felt_by_the_network():
    assert diffusion().least_time(10) == 9 and diffusion().times_up_to(torch.tensor([9]), 10).unique().numel() == 11
    assert Flow().least_time(10) == pytest.approx(0.01)


def test_rows_of_mixed_times_are_as_one_by_one():
    for process, times in ((diffusion(), [800, 30, 431]), (Flow(), [0.9, 0.03, 0.5])):
        generator = gaussian(process)
        x0, t = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)), torch.tensor(times)
        noise = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(2))
        together = inverted(generator, x0, t, {}, 7, iter(noise).__next__)
        for row in range(3):
            alone = inverted(generator, x0[row:row + 1], t[row:row + 1], {}, 7, iter(noise[:, row:row + 1]).__next__)
            assert torch.equal(alone, together[row:row + 1])


def test_one_step_by_hand():
    # from data to ab .64 with eps .5 predicted at the cleanest time: .8 * 1 + .6 * .5 = 1.1
    process = Diffusion(torch.tensor([0.9, 0.64]))
    generator = Known(process, lambda x, t: torch.full_like(x, 0.5))
    assert inverted(generator, torch.ones(1, 1), torch.tensor([1]), {}, 1).item() == pytest.approx(1.1)
    assert generator.asked == [[0]]
    # two steps: .948683 + .316228 * .5 = 1.106797 at ab .9, which keeps x0 1 and eps .5, so 1.1 again
    assert inverted(generator, torch.ones(1, 1), torch.tensor([1]), {}, 2).item() == pytest.approx(1.1)
    # of a flow: 1 + .4 * -1.5 = .4
    flow = Known(Flow(), lambda x, t: torch.full_like(x, -1.5))
    assert inverted(flow, torch.ones(1, 1), torch.tensor([0.4]), {}, 4).item() == pytest.approx(0.4)
    assert [round(t, 6) for [t] in flow.asked] == [0, 0.1, 0.2, 0.3]


def test_renoise_takes_the_last_step_again_with_what_is_predicted_where_it_led():
    # eps = x: to data's neighbour: eps 1 at 1 -> .8 + .6 = 1.4; there eps 1.4 -> .8 + .6 * 1.4 = 1.64
    process = Diffusion(torch.tensor([0.9, 0.64]))
    generator = Known(process, lambda x, t: x)
    assert inverted(generator, torch.ones(1, 1), torch.tensor([1]), {}, 1, renoise=True).item() == pytest.approx(1.64)
    assert generator.asked == [[0], [1]]
    # v = x at 1.4: eps = .8 * 1.4 + .6 * 1.4 = 1.96 -> .8 + .6 * 1.96 = 1.976, from a first eps of
    # (sqrt .9 + sqrt .1) * 1 = 1.264911 -> 1.558947, v there gives eps 2.182525 -> 2.109515
    v = Known(Diffusion(torch.tensor([0.9, 0.64]), "v_prediction"), lambda x, t: x)
    assert inverted(v, torch.ones(1, 1), torch.tensor([1]), {}, 1, renoise=True).item() == pytest.approx(2.109515)
    # flow, v = x: .5 -> 1.5, v 1.5 -> 1.75
    flow = Known(Flow(), lambda x, t: x)
    assert inverted(flow, torch.ones(1, 1), torch.tensor([0.5]), {}, 1, renoise=True).item() == pytest.approx(1.75)


def test_noise_of_a_step_is_that_of_ddims_step_down():
    process, t, then = diffusion(), torch.tensor([0, 100, 400]), torch.tensor([99, 200, 999])
    ddim = process.moments(torch.zeros(3, 1), torch.zeros(3, 1), then, t, "ddim", 1.0).std
    torch.testing.assert_close(process.noise_of_step(t, then), ddim)
    assert process.noise_of_step(torch.tensor([-1, -1]), torch.tensor([99, -1])).tolist() == [0, 0]


def test_noise_of_a_flows_step_is_the_std_of_the_point_before_given_the_one_after_and_the_data():
    t, then, n = 0.3, 0.5, 400_000
    g = torch.Generator().manual_seed(0)
    x, kept = t * torch.randn(n, generator=g), (1 - then) / (1 - t)  # x0 = 0
    after = kept * x + math.sqrt(then**2 - (kept * t) ** 2) * torch.randn(n, generator=g)
    slope = (x * after).mean() / after.square().mean()
    found = Flow().noise_of_step(torch.tensor([t, 0.0, 0.9]), torch.tensor([then, 0.1, 0.9999]))
    assert found[0].item() == pytest.approx((x - slope * after).std().item(), rel=5e-3)
    assert found[1] == 0 and found[2].item() == pytest.approx(0.9, abs=1e-3)  # noise at its ends is bounded


def test_each_step_adds_its_own_noise():
    process, t = diffusion(), torch.tensor([500, 20])
    generator = Known(process, lambda x, t: torch.zeros_like(x))
    x_t = inverted(generator, torch.zeros(2, 3), t, {}, 4, lambda: 0.1 * torch.ones(2, 3))
    grid, expected = process.times_up_to(t, 4), torch.zeros(2, 1)
    for now, then in zip(grid[:-1], grid[1:], strict=True):
        expected = expected * per_sample((process._alpha_bar(then) / process._alpha_bar(now)).sqrt(), expected) + \
            0.1 * per_sample(process.noise_of_step(now, then), expected)
    torch.testing.assert_close(x_t, expected.expand(2, 3))
