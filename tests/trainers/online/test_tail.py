"""The tail of MixGRPO-Flash: fewer steps after the window by a solver of second order, and what it must equal."""

import pytest
import torch

from visalign.config import RolloutSettings, WindowSettings
from visalign.config.online import TailSettings
from visalign.processes import Flow
from visalign.trainers.online.tail import Multistep, steps_to_draw, tail_steps, tail_times

from ...objectives.test_policy import tensors, times
from .test_rollout import drawn, loaded

FLOW = Flow()
MEAN, VARIANCE = 2.0, 0.25


def velocity(x, t):
    """The exact velocity of data N(2, 0.25)."""
    spread = (1 - t) ** 2 * VARIANCE + t**2
    slope = (t - (1 - t) * VARIANCE) / spread
    return slope * x - slope * (1 - t) * MEAN - MEAN


def variance_after(steps, multistep):
    """Of samples of the Gaussian: a run is affine in its first noise, so two of them give its slope."""
    x, solver = torch.tensor([[0.0], [1.0]], dtype=torch.float64), Multistep(FLOW)
    grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    for t, t_next in zip(grid[:-1].repeat(2, 1).T, grid[1:].repeat(2, 1).T, strict=True):
        prediction = velocity(x, t[:, None])
        x = solver.step(prediction, x, t, t_next) if multistep else FLOW.step(prediction, x, t, t_next)
    return (x[1] - x[0]).item() ** 2


@pytest.mark.parametrize("steps, expected, euler", [(6, 0.2025, 0.1514), (10, 0.2468, 0.1856), (20, 0.2555, 0.2155)])
def test_variance_of_a_gaussian(steps, expected, euler):
    assert variance_after(steps, True) == pytest.approx(expected, abs=6e-5)
    assert variance_after(steps, False) == pytest.approx(euler, abs=6e-5)


def test_without_a_step_before_and_to_data_it_is_the_ode():
    for t, t_next in ((1.0, 0.9), (0.6, 0.5), (0.3, 0.0)):
        x, v, before = tensors(3)
        where = (v, x, times(t), times(t_next))
        torch.testing.assert_close(Multistep(FLOW).step(*where), FLOW.step(*where), atol=1e-6, rtol=0)
    # after any step the one to data ends at the clean sample, and a first step from pure noise says nothing of change
    for earlier, t, t_next in ((0.5, 0.3, 0.0), (1.0, 0.6, 0.5)):
        solver = Multistep(FLOW)
        solver.predicted(before, x, times(earlier))
        where = (v, x, times(t), times(t_next))
        torch.testing.assert_close(solver.step(*where), FLOW.step(*where), atol=1e-6, rtol=0)


def test_the_correction_is_half_the_change_of_the_clean_sample_by_the_steps_lengths():
    x, v, before = tensors(3)
    solver = Multistep(FLOW)
    x0_before = solver.predicted(before, x, times(0.8))
    x0 = FLOW.x0_from(v, x, times(0.5))
    ends = torch.tensor([0.8, 0.5, 0.4], dtype=torch.float64)
    lengths = torch.log((1 - ends) / ends).diff()
    towards = x0 + (x0 - x0_before) * lengths[1] / (2 * lengths[0])
    expected = 0.8 * x + 0.2 * towards
    torch.testing.assert_close(solver.step(v, x, times(0.5), times(0.4)), expected)


@pytest.mark.parametrize("remaining, ratio, steps", [(21, 0.4, 7), (10, 0.4, 3), (4, 0.4, 1), (1, 0.4, 1), (0, 0.4, 0),
                                                     (21, 0.2, 3), (5, 1.0, 4)])
def test_a_tail_has_times_for_a_share_of_the_steps_and_always_ends_at_data(remaining, ratio, steps):
    grid = FLOW.schedule(25)
    found = tail_times(grid, 25 - remaining, ratio)
    assert tail_steps(remaining, ratio) == steps == len(found) - 1
    assert found[0] == grid[25 - remaining] and found[-1] == 0 and (found.diff() < 0).all()
    assert steps <= remaining


def test_times_lie_evenly_along_the_schedule():
    grid = Flow(shift=3.0).schedule(24)
    torch.testing.assert_close(tail_times(grid, 3, 0.4), grid[3::3])  # 8 times for 21 steps
    halves = tail_times(grid, 21, 1.0)
    torch.testing.assert_close(halves, torch.stack([grid[21], (grid[22] + grid[23]) / 2, grid[24]]))


FLASH = RolloutSettings(steps=8, window=WindowSettings(size=2, schedule="progressive", last=4),
                        tail=TailSettings(ratio=0.5))


def test_a_sample_costs_fewer_passes_and_its_window_stays_as_it_was(pipelines):
    generator, kept = loaded(pipelines, "sd3"), torch.tensor([[1, 2]] * 3)
    plain = FLASH.model_copy(update={"tail": None})
    found, passes = [], []
    for settings in (plain, FLASH, FLASH):
        generator.passes.clear()
        found.append(drawn(generator, settings, (1, 2), kept))
        passes.append(generator.passes["without gradient"])
    # three steps to the window's end, of which two samples share the first, and one step between two times for five
    assert passes == [3 * 8 - 1, 3 * 4 - 1, 3 * 4 - 1]
    for one, two, again in zip(*found, strict=True):
        assert torch.equal(one.after, two.after) and torch.equal(one.log_prob, two.log_prob)
        assert not torch.equal(one.latents, two.latents) and torch.equal(two.latents, again.latents)
        assert two.latents.isfinite().all()


def test_passes_are_counted_over_the_places_of_the_window():
    # it ends at 2 to 6 of 8: 6, 5, 4, 3, 2 remain, for which 3, 2, 2, 2, 2 times make 2, 1, 1, 1, 1 steps
    assert steps_to_draw(FLASH) == round((4 + 4 + 5 + 6 + 7) / 5) == 5
    assert steps_to_draw(FLASH.model_copy(update={"tail": None})) == 8
