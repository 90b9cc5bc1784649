"""`visalign reward eval`: what is told of a reward that may keep what it is sure of."""

import json

import pytest
import torch
from PIL import Image

from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.evaluation.reward_eval import report_dimension, reward_report_json, score_annotations, summary_lines
from visalign.jobs.reward_eval import evaluate_reward
from visalign.media.samples import to_bytes
from visalign.rewards.base import RewardModel, Scores


class Coloured(RewardModel):
    """The value of an image is its red, in steps of 40, and its spread its green."""

    dimensions = ("quality",)
    told = True

    def score_batch(self, samples):
        colours = torch.tensor([sample.image.getpixel((0, 0)) for sample in samples]).float() / 40
        return Scores(colours[:, :1], spread=colours[:, 1:2] if self.told else None)


class Silent(Coloured):
    told = False


def pair(prompt, value, spread, wrong):
    """A pair with this margin and spread of it, labelled for the other side where wrong."""
    sides = [AnnotatedMedia(prompt, to_bytes(Image.new("RGB", (8, 8), (40 * red, 40 * green, 0))))
             for red, green in ((value, spread), (0, 0))]
    return Annotation(*sides, {"quality": 0.0 if wrong else 1.0}, prompt)


PAIRS = [pair("p", 5, 2, False), pair("q", 4, 2, False), pair("r", 3, 5, True), pair("s", 2, 1, False),
         pair("t", 1, 3, True)]
TIE = Annotation(PAIRS[0].b, PAIRS[1].b, {"quality": 0.5}, "tie")


def test_errors_of_what_is_kept_by_margin_and_by_margin_over_spread():
    """By margin: errors 0, 0, 1, 0, 1, mean of 0, 0, 1/3, 1/4, 2/5: 0.1967. Over the spread, 2.5, 2, 0.6, 2, 0.33: the
    two errors come last, and the two of 2 together: 0, 0, 0, 1/4, 2/5: 0.13. Ties count in neither."""
    items = [*PAIRS, TIE]
    report = report_dimension(Coloured(), "quality", items, score_annotations(Coloured(), items, edits=False))
    by_margin, over_spread = report.abstention["margin"], report.abstention["margin over spread"]
    assert by_margin.curve.area == pytest.approx(0.196667, abs=1e-6) and by_margin.curve.risk[-1] == pytest.approx(0.4)
    assert over_spread.curve.area == pytest.approx(0.13)
    assert over_spread.curve.coverage == pytest.approx((0.2, 0.6, 0.8, 1))
    assert by_margin.surer_half.value == pytest.approx(2 / 3) and over_spread.surer_half.value == 1
    lines = [line for line in summary_lines({"quality": report}) if "half with the largest" in line]
    assert len(lines) == 2 and "largest margin: accuracy 0.667" in lines[0] and "without an order 0.400" in lines[1]
    kept = reward_report_json(Coloured(), {"quality": report})["dimensions"]["quality"]["abstention"]
    assert kept["margin over spread"]["curve"]["risk"] == pytest.approx((0, 0, 0.25, 0.4))


def test_a_reward_without_spread_has_the_order_of_its_margins_alone(tmp_path):
    reports = evaluate_reward(Silent(), PAIRS, tmp_path, edits=False)
    assert list(reports["quality"].abstention) == ["margin"]
    assert list(evaluate_reward(Coloured(), [TIE], tmp_path / "tie", edits=False)["quality"].abstention) == []


def test_the_page_and_the_numbers_show_them(tmp_path):
    evaluate_reward(Coloured(), PAIRS, tmp_path, edits=False)
    page = (tmp_path / "report.html").read_text()
    assert "Keeping what it is sure of" in page and page.count("<td>margin over spread") == 1
    assert "quality: errors against the share of pairs kept" in page
    found = json.loads((tmp_path / "eval.json").read_text())["dimensions"]["quality"]["abstention"]
    assert found["margin"]["curve"]["area"] == pytest.approx(0.196667, abs=1e-6)
