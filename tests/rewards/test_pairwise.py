"""Rewards that compare: win rates, log-odds, and `reward eval` by them."""

import math

import pytest
import torch
from PIL import Image

from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.evaluation.reward_eval import report_dimension, score_annotations
from visalign.media.samples import Sample, to_bytes
from visalign.rewards import build_reward
from visalign.rewards.pairwise import Failure, PairReward, log_odds, matches, ring, win_rates


class Brighter:
    """Prefers the brighter of two by fixed odds, and knows no black image."""

    name, dimensions, higher_is_better = "brighter", ("win_rate",), True

    def compare(self, pairs):
        values = [[sample.image.getpixel((0, 0))[0] for sample in pair] for pair in pairs]
        return [Failure("too dark") if 0 in pair else 0.5 + 0.3 * (pair[0] > pair[1]) - 0.3 * (pair[0] < pair[1])
                for pair in values]


def grey(level, prompt="p"):
    return AnnotatedMedia(prompt, to_bytes(Image.new("RGB", (8, 8), (level,) * 3)))


@pytest.mark.parametrize("count, opponents, expected", [(2, 7, 1), (4, 7, 6), (8, 2, 8), (1, 7, 0)])
def test_matches_are_a_ring(count, opponents, expected):
    found = ring(count, opponents)
    assert len(found) == expected == len(set(found)) and all(a < b for a, b in found)


def test_only_samples_of_one_prompt_meet():
    samples = [Sample(prompt) for prompt in ("x", "y", "x", "z", "y")]
    assert sorted(matches(samples, 7)) == [(0, 2), (1, 4)]


def test_the_win_rate_is_the_mean_probability():
    rates = win_rates(4, [(0, 1), (0, 2), (1, 2)], [0.9, Failure("no answer"), 0.4], [None, None, "made smaller"])
    assert rates.values[:3, 0].tolist() == pytest.approx([0.9, (0.1 + 0.4) / 2, 0.6])
    assert rates.values[3].isnan() and "nothing to compare" in rates.remarks[3]
    assert rates.remarks[0] == "no answer" and rates.remarks[1] == rates.remarks[2] == "made smaller"


def test_a_judge_of_pairs_gives_win_rates_that_an_outlier_does_not_stretch():
    quality = [0.0, 1.0, 1.0, 3.0]
    met = matches([Sample("p")] * 4, 7)
    assert 2 * len(met) == 4 * 3  # every pair once, and asked in both orders
    rates = win_rates(4, met, [0.5 + 0.5 * math.copysign(quality[i] != quality[j], quality[i] - quality[j])
                               for i, j in met])
    assert rates.values[:, 0].tolist() == [0, 0.5, 0.5, 1]


def test_log_odds_are_finite_antisymmetric_and_nan_for_a_failure():
    values = log_odds([0.8, 0.2, 0.5, 1.0, Failure("x")])
    assert values[:3].tolist() == pytest.approx([math.log(4), -math.log(4), 0.0])
    assert values[3].isfinite() and values[3] > 13 and values[4].isnan()


def test_who_compares_and_who_does_not():
    for kind in ("vlm_pairs", "unifiedreward_pairs", "unifiedreward_flex"):
        assert isinstance(build_reward({"kind": kind, "url": "http://127.0.0.1:1/v1", "cache": None}), PairReward)
    assert isinstance(Brighter(), PairReward) and not isinstance(build_reward("sharpness"), PairReward)


def test_reward_eval_takes_its_margins_from_the_comparison():
    items = [Annotation(grey(200), grey(100), {"quality": 1.0}, "right"),
             Annotation(grey(100), grey(200), {"quality": 1.0}, "wrong"),
             Annotation(grey(100), grey(0), {"quality": 1.0}, "failed"),
             Annotation(grey(200), grey(100, "another"), {"quality": 1.0}, "across prompts")]
    judged = score_annotations(Brighter(), items)
    margins = torch.tensor(judged.a - judged.b)[:, 0]
    assert margins[:2].tolist() == pytest.approx([math.log(4), -math.log(4)]) and margins[2:].isnan().all()
    report = report_dimension(Brighter(), "quality", items, judged)
    assert report.overall.accuracy.value == 0.5 and report.not_scored == 2
    assert report.calibration.predicted == pytest.approx([0.8])
    assert all(edit.flipped.value == 0 for edit in report.robustness)
