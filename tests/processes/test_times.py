"""A sampling schedule's next step from any time."""

import pytest
import torch

from visalign.processes.times import next_time, shift_times


def test_a_uniform_schedule_steps_by_its_interval_and_ends_at_zero():
    found = next_time(torch.linspace(1, 0, 41), torch.tensor([1.0, 0.6, 0.03, 0.025, 0.01]))
    assert found.tolist() == pytest.approx([0.975, 0.575, 0.005, 0, 0], abs=1e-6)


def test_times_of_a_schedule_lead_to_the_next_ones():
    schedule = shift_times(torch.linspace(1, 0, 11), 3.0)
    torch.testing.assert_close(next_time(schedule, schedule[:-1]), schedule[1:])


def test_between_them_a_step_goes_as_far_along_the_next_interval():
    # 0.6 lies half way from 0.4 to 0.8, so what follows half way from 0.1 to 0.4; 0.9 is above all that are sampled
    found = next_time(torch.tensor([0.8, 0.4, 0.1, 0.0]), torch.tensor([0.6, 0.9, 0.05]))
    assert found.tolist() == pytest.approx([0.25, 0.4, 0.0])
