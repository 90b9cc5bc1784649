"""Intervals of one look of several: by hand, and over whole runs of looks."""

import numpy as np
import pytest
import scipy.stats as st

from visalign.evaluators.looks import ERROR, OneLook, OneOfMany, error_of_look


def test_a_mean_has_students_interval():
    found = OneOfMany(0.05).mean([1.0, 2.0, 3.0, 6.0])
    # mean 3, deviation 2.160247, t of 3 degrees of freedom 3.182446: 3 -+ 3.182446 x 1.080123
    assert found == pytest.approx((3.0, -0.437435, 6.437435), abs=1e-6)
    assert OneOfMany(0.05).mean([1.0, 2.0, 3.0, 6.0], 0.5) == OneOfMany(0.025).mean([1.0, 2.0, 3.0, 6.0])


def test_a_relative_change_is_what_the_test_of_a_mean_does_not_reject():
    rng = np.random.default_rng(0)
    before = rng.gamma(4, 0.25, 40)
    after = 0.8 * before + rng.normal(0, 0.2, 40)
    change = OneOfMany(0.01).change(before, after)
    assert change.value == pytest.approx(after.mean() / before.mean() - 1)
    for bound in (change.low, change.high):  # there p is just the error
        assert st.ttest_1samp(after - (1 + bound) * before, 0).pvalue == pytest.approx(0.01)
    assert change.low < change.value < change.high
    assert OneOfMany(1e-6).change(before, after).high > change.high


def test_what_has_no_interval_has_an_infinite_one():
    one = OneOfMany(0.05)
    for found in (one.mean([1.0]), one.change([1.0], [0.5]), one.change([0.0, 0.0], [1.0, 2.0]),
                  one.change([5.0, -4.0], [1.0, 2.0])):  # the last: a mean before that is not clear of 0
        assert found.low == -np.inf and found.high == np.inf
    assert one.mean([2.0, 2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        one.change([1.0, np.nan], [1.0, 1.0])


def test_looks_spend_the_error_together():
    assert [error_of_look(k, 4) for k in range(1, 5)] == pytest.approx([ERROR / 4] * 4)
    late = [error_of_look(k, 2, shape="late") for k in (1, 2)]
    # 2 - 2 Phi(1.959964 x sqrt 2) = 0.005575
    assert late == pytest.approx([0.005575, 0.044425], abs=1e-6)
    for look in (0, 5):
        with pytest.raises(ValueError, match=f"look {look} of 4 planned ones"):
            error_of_look(look, 4)


def test_twenty_looks_at_nothing_find_something_seldom_and_as_if_each_were_the_only_one_often():
    rng, runs, looks, prompts = np.random.default_rng(0), 400, 20, 32
    alarms = {"one": 0, "many": 0}
    for _ in range(runs):
        values = rng.standard_normal((looks, prompts))
        alarms["many"] += any(OneOfMany(error_of_look(k + 1, looks)).mean(row).clear_of_zero
                              for k, row in enumerate(values))
        alarms["one"] += any(OneOfMany(ERROR).mean(row).clear_of_zero for row in values)
    assert st.binomtest(alarms["many"], runs).proportion_ci().low < ERROR
    assert alarms["one"] / runs > 0.5  # 1 - 0.95^20 = 0.64


def test_of_one_look_they_are_the_bootstrap_ones():
    from visalign.evaluators.statistics import mean_with_interval, relative_change

    values = np.random.default_rng(0).normal(1, 1, 30)
    assert OneLook().mean(values) == mean_with_interval(values)
    assert OneLook().mean(values, 0.5) == mean_with_interval(values, level=0.975)
    assert OneLook().change(values + 3, values + 2) == relative_change(values + 3, values + 2)
