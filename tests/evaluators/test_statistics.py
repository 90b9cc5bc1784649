"""Intervals over prompts."""

import math

import pytest
import torch

from visalign.evaluators import mean_with_interval


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
