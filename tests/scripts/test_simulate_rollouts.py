"""The simulation takes as long as the formulas say where nothing varies, and counts every batch once where workers die.
"""

from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"


@pytest.fixture
def simulate(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import simulate_rollouts

    return simulate_rollouts


@pytest.mark.parametrize("workers", [1, 16, 64])
@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_an_epoch_takes_as_long_as_on_paper(simulate, workers, staleness):
    times = simulate.Times(spread=0.0, fetching=0.0, between_deaths=0.0)
    run = simulate.Simulation(workers, staleness, times, epochs=12)
    # 64 batches of 8 s, 32 s of learning: 512 / W + 32, or the larger of the two
    paper = 512 / workers + 32 if staleness == 0 else max(512 / workers, 32)
    assert run.run() == pytest.approx(paper) and simulate.on_paper(workers, staleness, 64, times) == paper


def test_every_batch_counts_once_though_workers_die(simulate):
    run = simulate.Simulation(8, 1, simulate.Times(between_deaths=100.0), epochs=10)
    run.run()
    assert run.redrawn > 10 and len(run.drawn) == 640 and set(run.drawn.values()) == {1}
