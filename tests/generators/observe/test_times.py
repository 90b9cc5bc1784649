"""The network's time as a function of the process's."""

import pytest
import torch

from visalign.generators.observe.times import TimeRule, fit_times

T = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.2])


@pytest.mark.parametrize("given, rule", [
    (1000 * T, (0.0, 1000.0, None)), (T, (0.0, 1.0, None)), (1 - T, (1.0, -1.0, None)), (250 * T, (0.0, 250.0, None)),
    (0.25 + 0.5 * T, (0.25, 0.5, None))])
def test_lines_are_found(given, rule):
    assert fit_times(T, given, exact=True) == pytest.approx(rule)


def test_whole_numbers_and_half_precision_are_read_as_what_they_mean():
    assert fit_times(T, (1000 * T - 0.4).round(), exact=False) == (0.0, 1000.0, None)
    assert fit_times(T, (1 - T).bfloat16().float(), exact=False) == (1.0, -1.0, None)


def test_a_time_before_the_shift_is_found():
    """t = 3 u / (1 + 2 u): a network that sees u = 0.5 where the scheduler is at t = 0.75 has a shift of 3."""
    u = T / (T + 3 * (1 - T))
    assert u[2] == pytest.approx(0.5)
    offset, slope, shift = fit_times(T, 1000 * u, exact=True)
    assert (offset, slope, shift) == (0.0, 1000.0, pytest.approx(3.0, rel=1e-4))
    assert TimeRule(offset, slope, shift)(torch.tensor([0.75])).item() == pytest.approx(500.0, rel=1e-4)


def test_another_function_is_not_understood():
    assert fit_times(T, torch.sin(3 * T), exact=True) is None


def test_tokens_with_a_time_of_their_own_keep_it():
    rule = TimeRule(0.0, 1000.0, None, (3,), torch.tensor([True, False, False]), 0.0)
    assert rule(torch.tensor([0.5, 0.25])).tolist() == [[0.0, 500.0, 500.0], [0.0, 250.0, 250.0]]
