"""Where two models are compared, it is told how far the scores of one lie from the other's."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from .test_compare import cache, invoke, results  # noqa: F401, fixtures
from .test_oracle import PROMPTS, SEEDS, colourful, write_squares


def test_the_shift_of_every_reward_is_told_and_written(invoke, tmp_path):  # noqa: F811
    base, far = write_squares(tmp_path / "base", 0.0), write_squares(tmp_path / "far", 0.3)
    done = invoke("compare", f"base={base}", f"far={far}", "-r", "saturation,exposure", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    outside = np.mean([colourful(p, k, 0.3) > 0.7 + 1e-9 for p in range(PROMPTS) for k in range(SEEDS)])
    figures = results(tmp_path / "out")["figures"]
    assert figures["far"]["outside the base's range/saturation"]["value"] == pytest.approx(outside)
    distance = figures["far"]["range shift/saturation"]["value"]
    assert outside <= distance < 1 and not [name for name in figures["base"] if "range" in name]
    assert distance > figures["far"]["range shift by chance/saturation"]["value"] > 0
    line = next(line for line in done.output.splitlines() if line.startswith("scores of far and of base: "))
    assert line.startswith(f"scores of far and of base: saturation {distance:.2f} apart (")
    assert f"by chance), {100 * outside:.0f} % outside; exposure 0." in line
    table = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert ("far", "range shift/exposure") in {(row["model"], row["metric"]) for row in table}


def test_of_the_same_model_nothing_has_moved(invoke, tmp_path):  # noqa: F811
    base = write_squares(tmp_path / "base", 0.0)
    done = invoke("compare", f"a={base}", f"b={base}", "-r", "saturation", "-o", tmp_path / "out")
    assert "scores of b and of a: saturation 0.00 apart (0.00 by chance), 0 % outside" in done.output, done.output
