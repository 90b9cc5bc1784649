"""The simulated guard: what a look sees of a known harm, and that it is close where it is unsure."""

import numpy as np
import pytest


@pytest.fixture
def simulation():
    import simulate_close_looks

    return simulate_close_looks


def test_a_look_sees_what_is_left_by_hand(simulation):
    runs = simulation.Runs(np.ones((3, 96)), simulation.RULES["close looks on more prompts"], "fades", 5,
                           np.random.default_rng(0))
    due, close = runs.beyond(0.2, False), runs.beyond(0.2, True)
    assert due.shape == (5, 32) and close.shape == (5, 128) and due == pytest.approx(0.8 - 0.85)
    runs.harm = "drops out"
    assert set(np.unique(runs.left(0.3))) == {0.0, 1.0} and runs.left(0.3).mean() == pytest.approx(0.7, abs=0.06)
    runs.harm = "uneven"
    assert runs.left(0.3).mean() == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("name", ["due looks alone", "close looks on more seeds", "close looks on more prompts"])
def test_what_is_gone_is_seen_at_once_and_what_grew_never(simulation, name):
    measured = 1 + 0.3 * np.random.default_rng(1).standard_normal((10, 96))
    for lost, expected in ((np.full(4, 0.9), 0), (np.full(4, -0.5), 4)):
        runs = simulation.Runs(measured, simulation.RULES[name], "fades", 50, np.random.default_rng(0))
        first, close = simulation.alarms(runs, lost)
        assert (first == expected).all() and not close.any()
