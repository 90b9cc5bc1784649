"""Schedulers whose noise levels rise from 0 to 1 are those that fall, read backwards."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from visalign.generators.observe.watching import noise_levels
from visalign.generators.schedulers import check_agrees
from visalign.processes import Flow


def test_rising_levels_are_read_as_falling_ones():
    falling, rising = (FlowMatchEulerDiscreteScheduler(invert_sigmas=inverted) for inverted in (False, True))
    for scheduler in (falling, rising):
        scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5])
    assert noise_levels(falling).tolist() == [1, 0.75, 0.5, 0]
    assert torch.equal(noise_levels(rising), noise_levels(falling))


def test_such_a_scheduler_agrees_with_a_flow():
    check_agrees(Flow(), FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
