"""The report's numbers and its charts."""

import base64
import json
import re
import xml.etree.ElementTree as ET

import pytest

from tests.trainers.commands import run
from visalign.reports.run import smooth, tail_mean


def test_smoothing_starts_at_the_mean_of_the_first_values_and_follows():
    assert smooth([2.0] * 5) == [2.0] * 5
    assert smooth([0.0] * 199 + [1.0])[-1] == pytest.approx(0.05)
    assert smooth([0.0] * 9 + [1.0])[-1] == pytest.approx(0.5)  # short runs: weight 5 / n
    assert smooth([1.0, 3.0]) == [1.0, 3.0]


def test_tail_mean_uses_only_rows_that_have_the_metric():
    assert tail_mean([{"a": 1.0}, {}, {"a": 3.0}], "a") == 2.0
    assert tail_mean([{}], "a") is None


@pytest.mark.parametrize("kind, titles", [
    ("recipe", ["loss", "implicit accuracy", "gradient norm", "held-out reward: tiny-clip"]),
    ("online_recipe", ["loss", "reward of the policy's samples", "ratio minus 1, mean and spread",
                       "share clipped above"])])
def test_a_run_s_report_holds_its_curves_and_needs_nothing_from_elsewhere(kind, titles, request, tmp_path):
    run(request.getfixturevalue(kind)())
    page = (tmp_path / "run" / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    drawn = [base64.b64decode(found).decode() for found in re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", page)]
    for chart in drawn:
        ET.fromstring(chart)
    for title in titles:
        assert any(f"<!-- {title} -->" in chart for chart in drawn), title  # how matplotlib marks the text it draws
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} >= {"start", "train", "held_out"}
