"""The report's numbers."""

import pytest

from visalign.pages.run import smooth, tail_mean


def test_smoothing_starts_at_the_mean_of_the_first_values_and_follows():
    assert smooth([2.0] * 5) == [2.0] * 5
    assert smooth([0.0] * 199 + [1.0])[-1] == pytest.approx(0.05)
    assert smooth([0.0] * 9 + [1.0])[-1] == pytest.approx(0.5)  # short runs: weight 5 / n
    assert smooth([1.0, 3.0]) == [1.0, 3.0]


def test_tail_mean_uses_only_rows_that_have_the_metric():
    assert tail_mean([{"a": 1.0}, {}, {"a": 3.0}], "a") == 2.0
    assert tail_mean([{}], "a") is None
