"""Likelihood displacement and ranking accuracy by hand."""

import numpy as np
import pytest

from visalign.evaluators.likelihood import gap_quantiles, likelihoods


def test_shares_of_four_pairs():
    ref_w, ref_l = np.array([-1.0, -2.0, -3.0, -4.0]), np.array([-2.0, -1.0, -3.5, -3.0])
    w, l = np.array([-1.5, -1.5, -3.2, -4.5]), np.array([-3.0, -1.2, -3.4, -3.1])  # noqa: E741
    found = likelihoods(w, l, ref_w, ref_l, list("abcd"))
    assert found.pairs == 4
    assert found.displaced.value == 0.75  # the first, third and fourth chosen became less likely
    assert found.both_fell.value == 0.5  # of these the first's and the fourth's rejected did too
    assert found.ranked.value == 0.5 and found.ranked_by_reference.value == 0.5
    assert found.implicit.value == 0.5  # margins grew for the first two only


def test_at_the_reference_nothing_is_displaced():
    values = np.arange(6.0)
    found = likelihoods(values, values - 1, values, values - 1, list("aabbcc"))
    assert found.displaced.value == 0 and found.ranked.value == 1 and found.implicit.value == 0


def test_quantiles_of_the_reference_s_gap():
    """Gaps 0 to 100: a share p of pairs lies below 100 p."""
    assert gap_quantiles([float(each) for each in range(101)]) == pytest.approx(
        {0.05: 5, 0.25: 25, 0.5: 50, 0.75: 75, 0.95: 95})
