"""Thresholds at the peak of a reward that was not optimised, on curves whose peak is known."""

from types import SimpleNamespace

import numpy as np
import pytest

from visalign.evaluation.usefulness import usefulness_in_words, usefulness_points
from visalign.evaluators.overoptimisation import FORMS, fit_overoptimisation


def results(far=4.0, noise=0.05):
    """gold = d (1 - d / 4), highest at 2; proxy = d (1 - .05 d): 1.8 there, from a base of 10."""
    distance, rng = np.linspace(0.5, far, 8), np.random.default_rng(0)
    curves = {"gold": distance * (1 - distance / 4), "proxy": distance * (1 - 0.05 * distance)}
    changes = {name: curve[:, None] + noise * rng.standard_normal((8, 16)) for name, curve in curves.items()}
    fits = {name: {form: fit_overoptimisation(distance, rows, form) for form in FORMS}
            for name, rows in changes.items()}
    values = {"reward/gold": [0.0] * 16, "reward/proxy": [9.0, 11.0] * 8}
    return SimpleNamespace(base="base", curve=SimpleNamespace(fits=fits, distance=distance.tolist()),
                           measured={"base": SimpleNamespace(measured=SimpleNamespace(values=values))})


def test_the_others_are_read_where_gold_is_highest():
    peak, values = usefulness_points(results(), "gold")
    assert peak == pytest.approx(2, abs=0.1) and values == {"proxy": pytest.approx(11.8, abs=0.1)}
    said = usefulness_in_words(results(), "gold")
    assert "gold is highest at a distance of" in said and "advantage.combine=constrained" in said
    assert f"'advantage.thresholds={{proxy: {values['proxy']:.4g}}}'" in said


def test_a_run_that_has_not_come_so_far_has_no_thresholds():
    assert usefulness_points(results(far=1.2, noise=0.0), "gold") is None
    assert "no peak among these checkpoints" in usefulness_in_words(results(far=1.2, noise=0.0), "gold")
    assert usefulness_points(results(), "unknown") is None
    assert usefulness_points(SimpleNamespace(curve=None), "gold") is None
