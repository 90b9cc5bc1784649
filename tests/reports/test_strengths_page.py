"""The part of the page that shows one run at several strengths."""

from types import SimpleNamespace

import pytest

from visalign.evaluation.strengths import StrengthChoice
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.verdict import Verdict
from visalign.reports import charts
from visalign.reports.comparison import foremost, shown_models, title_of
from visalign.reports.strengths import by_strength

STRENGTHS = {"strength 0": 0.0, "strength 0.5": 0.5, "strength 1": 1.0}


def choice(best):
    return StrengthChoice("mine", STRENGTHS, "r", 0.15, best, "a sentence")


@pytest.fixture
def results():
    verdicts = {name: Verdict("healthy", (), "r", Estimate(-0.1 * s, -0.2 * s, 0.0),
                              {"r": Estimate(s, s - 0.1, s + 0.1)}) for name, s in STRENGTHS.items() if s}
    return SimpleNamespace(base="strength 0", models=list(STRENGTHS), verdicts=verdicts,
                           strengths=choice("strength 0.5"))


def test_a_point_is_what_is_gained_and_what_is_kept(results, monkeypatch):
    seen = {}
    monkeypatch.setattr(charts, "trade_chart", lambda *given: seen.setdefault("given", given))
    by_strength(results, results.strengths)
    labels, gains, kept, least, best, reward = seen["given"]
    assert labels == {"strength 0": "0", "strength 0.5": "0.5", "strength 1": "1"}
    assert gains["strength 1"] == (1, 0.9, 1.1) and gains["strength 0"] == (0, 0, 0)
    assert kept["strength 1"] == pytest.approx((90, 80, 100)) and kept["strength 0"] == (100, 100, 100)
    assert least == pytest.approx(85) and best == "strength 0.5" and reward == "r"


def test_it_is_drawn_with_every_strength_and_its_verdict(results):
    page = by_strength(results, results.strengths)
    assert len(page["charts"]) == 3 and page["words"] == [("strength 0.5", "healthy"), ("strength 1", "healthy")]
    drawn = page["charts"][0]
    assert all(f">{label}</text>" in drawn for label in ("0", "0.5", "1"))
    assert "diversity kept, % of the base" in drawn and "r gained against diversity kept at the strengths" in drawn
    assert "15 % loss" in page["about"]


def test_without_diversity_there_is_nothing_to_draw(results):
    results.verdicts = {name: Verdict("undecided", (), "r", None, each.rewards)
                        for name, each in results.verdicts.items()}
    assert by_strength(results, choice(None))["charts"] == []


def test_what_was_chosen_is_shown_first(results):
    assert title_of(results) == "mine at 2 strengths" and foremost(results) == "strength 0.5"
    results.models = [f"strength {i}" for i in range(8)]
    results.strengths = choice("strength 1")
    assert shown_models(results) == ["strength 0", "strength 1", "strength 2", "strength 5", "strength 7"]
    results.strengths = choice(None)
    assert foremost(results) == "strength 7"
