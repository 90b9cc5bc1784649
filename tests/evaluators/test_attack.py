"""Attacks on rewards whose best attack is known."""

import pytest
import torch

from visalign.evaluators.attack import climb_latents, climb_pixels, exact_slope, guessed, length_of_each


def linear(weights):
    return lambda at: (at * weights).flatten(1).sum(1)


def test_of_a_linear_reward_the_gain_in_pixels_is_eps_times_its_weights():
    weights = torch.tensor([[0.5, -2.0], [0.25, 1.0]]).expand(1, 3, 2, 2).double()
    start = torch.full((2, 3, 2, 2), 0.5, dtype=torch.float64)
    value = linear(weights)
    found = climb_pixels(value, start, eps=4 / 255, step=1 / 255, steps=20)
    assert (value(found) - value(start)).tolist() == pytest.approx([4 / 255 * 3 * 3.75] * 2)  # eps |w|_1
    assert (found - start).abs().max() <= 4 / 255 + 1e-12
    low = climb_pixels(value, torch.zeros_like(start), eps=0.1, step=0.1, steps=2)
    assert low.min() == 0 and low[0, 0].flatten().tolist() == pytest.approx([0.1, 0, 0.1, 0.1])  # none below black


def test_of_a_linear_reward_the_gain_in_latents_is_the_reach_along_its_weights():
    torch.manual_seed(0)
    weights, start = torch.randn(1, 4, 2, 2, dtype=torch.float64), torch.randn(3, 4, 2, 2, dtype=torch.float64)
    start[1] *= 10  # each by its own length
    value = linear(weights)
    found = climb_latents(value, start, reach=0.05, steps=8, slope=exact_slope)
    wanted = 0.05 * length_of_each(start).flatten() * weights.norm()
    assert (value(found) - value(start)).tolist() == pytest.approx(wanted.tolist())
    torch.testing.assert_close(length_of_each(found - start), 0.05 * length_of_each(start))


def test_a_guessed_slope_is_right_on_average_and_climbs():
    torch.manual_seed(0)
    weights, start = torch.randn(1, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    value = linear(weights)
    slope = guessed(4000, 0.02, torch.Generator().manual_seed(1))(value, start)
    torch.testing.assert_close(slope, weights.expand(2, 8), atol=0.15, rtol=0)
    found = climb_latents(value, start, 0.05, 20, guessed(8, 0.02, torch.Generator().manual_seed(2)))
    exact = climb_latents(value, start, 0.05, 20, exact_slope)
    assert ((value(found) - value(start)) > 0.6 * (value(exact) - value(start))).all()


def test_a_slope_that_is_not_finite_is_told():
    with pytest.raises(ValueError, match="gradient of the reward is not finite"):
        climb_pixels(lambda at: at.log().flatten(1).sum(1), torch.zeros(1, 3, 2, 2), 0.1, 0.1, 1)
