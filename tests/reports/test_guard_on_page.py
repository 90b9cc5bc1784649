"""What a run's page draws of the guard's looks: intervals that hold for all of them."""

import numpy as np
import pytest
import scipy

from visalign.reports import charts
from visalign.reports.run import guard_looks


def look(step: int, values: dict, word: str = "healthy", **more) -> dict:
    return {"step": step, "prompts": [str(i) for i in range(16)], "seeds": 4, "values": values, "spread": {},
            "verdict": {"word": word, "proxy": "r"}, **more}


def test_points_have_what_their_look_may_err_and_not_five_percent_each(monkeypatch):
    seen = []
    monkeypatch.setattr(charts, "front_chart", lambda *given: seen.append(given))
    rng = np.random.default_rng(0)
    values = [{"reward/r": rng.normal(size=16).tolist(), "diversity/vendi": rng.gamma(4, 0.5, 16).tolist()}
              for _ in range(3)]
    values[1]["reward/r"][3] = float("nan")  # a prompt that could not be scored is left out
    found = guard_looks([look(i, each, **({"error": 0.002, "suspicion": f"of {i}"} if i else {}))
                         for i, each in enumerate(values)], "epoch")
    assert found["close"] == [("epoch 1", "of 1"), ("epoch 2", "of 2")]
    assert [word for _, word in found["words"]] == ["healthy"] * 3
    [(rewards, diversity, base, proxy)] = seen
    assert (base, proxy) == ("0", "r")
    for step, error in (("0", 0.05 / 3 / 3), ("1", 0.002), ("2", 0.002)):  # the first: of a run from before
        for drawn, name in ((rewards, "reward/r"), (diversity, "diversity/vendi")):
            known = np.array([each for each in values[int(step)][name] if np.isfinite(each)])
            reach = scipy.stats.t.isf(error / 2, len(known) - 1) * known.std(ddof=1) / len(known) ** 0.5
            assert drawn[step] == pytest.approx((known.mean(), known.mean() - reach, known.mean() + reach))
