"""The simulated studies: their truth on paper, and which intervals hold it in a few of them."""

import numpy as np
import pytest


@pytest.fixture
def simulate():
    import simulate_oracle

    return simulate_oracle


def test_the_true_mean_is_that_of_many_samples(simulate):
    """E sigmoid(2 z) is 1/2 by symmetry; labels of 400 samples each of 200 draws have a standard error of 0.003."""
    assert simulate.true_mean(0.0) == pytest.approx(0.5)
    for shift in (0.2, -0.6):
        drawn = [simulate.labelled_samples(np.random.default_rng(seed), shift)[1].mean() for seed in range(200)]
        assert np.mean(drawn) == pytest.approx(simulate.true_mean(shift), abs=0.012)


def test_of_a_few_studies_the_calibrated_interval_holds_and_the_naive_ones_do_not(simulate, tmp_path):
    """40 studies: of 95 % at least 34 hold (0.1 % have fewer); the others would have to be of 95 % as well."""
    rows = [{"ranked": simulate.ranked(3, 100), **simulate.coverage(40, 100, kind)} for kind in simulate.BETTER]
    for row in rows:
        held = {name: each["held"] for name, each in row["intervals"].items()}
        assert row["claimed"] >= 34 and held["calibrated"] >= 0.85
        assert held["curve for certain"] < 0.8 and held["the reward's own"] < 0.1
        assert row["intervals"]["curve for certain"]["width"] < row["intervals"]["calibrated"]["width"]
        assert row["ranked"] > 0.9
    assert simulate.table(rows).count("\n") == 4
    simulate.draw(rows, tmp_path)
    assert (tmp_path / "oracle.png").stat().st_size > 10_000
