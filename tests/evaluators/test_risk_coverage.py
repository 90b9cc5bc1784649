"""Errors of what is kept against how much is kept."""

import pytest

from visalign.evaluators.risk_coverage import risk_coverage


def test_the_curve_is_the_mean_error_of_the_surest():
    """Errors 0, 0, 1, 0, 1 from the surest on: 0, 0, 1/3, 1/4, 2/5; their mean is 0.196667."""
    found = risk_coverage([1, 0, 0, 1, 0], [0.5, 0.1, 0.2, 0.3, 0.4])
    assert found.coverage == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.0))
    assert found.risk == pytest.approx((0, 0, 1 / 3, 1 / 4, 2 / 5))
    assert found.area == pytest.approx(0.196667, abs=1e-6)


def test_items_of_equal_doubt_enter_together():
    """Doubts 1, 1, 2: two items enter with the risk 1/2, then the third with 1/3; area (1/2 + 1/2 + 1/3) / 3 = 4/9.
    Without any order the area is the risk of all."""
    found = risk_coverage([0, 1, 0], [1, 1, 2])
    assert found.coverage == pytest.approx((2 / 3, 1)) and found.risk == pytest.approx((1 / 2, 1 / 3))
    assert found.area == pytest.approx(4 / 9)
    assert risk_coverage([1, 0, 0, 1], [3, 3, 3, 3]) == ((1.0,), (0.5,), 0.5)


def test_nothing_has_no_curve():
    with pytest.raises(ValueError, match="at least one item"):
        risk_coverage([], [])
