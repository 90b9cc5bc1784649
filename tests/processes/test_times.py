"""A sampling schedule's next step from any time, and times from equally likely parts."""

import pytest
import torch

from visalign.processes.times import next_time, sample_unit_times, shift_times, stratified_unit_times


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


@pytest.mark.parametrize("sampling", ["uniform", "shifted", "logit_normal"])
def test_stratified_times_are_one_of_each_equally_likely_part(sampling):
    drawn = stratified_unit_times(16, sampling, 3.0, torch.Generator().manual_seed(0))
    many = sample_unit_times(200_000, sampling, 3.0, torch.Generator().manual_seed(1))
    ends = torch.quantile(many, torch.linspace(0, 1, 17))
    assert drawn.dtype == torch.float32 and (drawn[1:] > drawn[:-1]).all()
    for i in range(16):  # each end is known to a few thousandths
        assert ends[i] - 0.004 <= drawn[i] <= ends[i + 1] + 0.004
    again = stratified_unit_times(16, sampling, 3.0, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_a_share_of_a_half_is_the_median():
    """u = 0.5: shifted by 3, 3 x 0.5 / (1 + 2 x 0.5) = 0.75, for logit-normal times as well, whose median is 0.5."""
    halves = {"uniform": 0.5, "shifted": 0.75, "logit_normal": 0.75}
    for sampling, median in halves.items():
        share = torch.rand(1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        found = stratified_unit_times(1, sampling, 3.0, torch.Generator().manual_seed(3)).item()
        assert (found > median) == (share.item() > 0.5)
