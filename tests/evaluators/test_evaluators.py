"""Intervals and variety."""

import math

import pytest
import torch

from visalign.evaluators import mean_with_interval, within_prompt_variety
from visalign.evaluators.variety import variety_per_prompt


def test_interval_matches_the_normal_one_for_many_values():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0)).tolist()
    estimate = mean_with_interval(values)
    half = 1.96 * torch.tensor(values).std().item() / math.sqrt(400)
    assert estimate.high - estimate.value == pytest.approx(half, rel=0.1)
    assert not estimate.clear_of_zero
    assert mean_with_interval([v + 1 for v in values]).clear_of_zero


def test_interval_is_seeded_and_one_prompt_has_none():
    assert mean_with_interval([1.0, 2.0, 4.0]) == mean_with_interval([1.0, 2.0, 4.0])
    assert mean_with_interval([1.0]).high == float("inf")
    assert mean_with_interval([2.0, 2.0]).low == 2.0


def test_variety_of_equal_pictures_is_zero_and_of_orthogonal_ones_is_one():
    assert within_prompt_variety(torch.tensor([[1.0, 0.0]] * 3)) == pytest.approx(0)
    assert within_prompt_variety(torch.eye(3)) == pytest.approx(1)
    # two alike, one orthogonal: distances 0, 1, 1
    assert within_prompt_variety(torch.tensor([[1.0, 0], [1, 0], [0, 1]])) == pytest.approx(2 / 3)


def test_variety_needs_two_pictures():
    with pytest.raises(ValueError, match="two"):
        within_prompt_variety(torch.eye(3)[:1])
    assert list(variety_per_prompt(torch.eye(3), ["a", "b", "a"])) == ["a"]
