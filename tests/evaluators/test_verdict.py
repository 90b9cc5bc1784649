"""The verdict on measurements made up for each word of it."""

import json

import numpy as np
import pytest
import torch

from visalign.evaluators.prompt_metrics import PromptMetrics, mean_over_seeds, prompt_metrics_of, reduce
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.style import STYLE
from visalign.evaluators.verdict import (
    VerdictLimits,
    best_point,
    front,
    percent,
    repeated_look,
    shared,
    unplanned_look,
    unsure_of,
    verdict_of,
)

PROMPTS = [f"prompt {i}" for i in range(40)]


def measured(extra=1.0, proxy=0.0, gold=0.0, luminance=0.5, noise=0.0, seeds=4):
    """Per-prompt figures around the given means; noise is the spread of differences over prompts."""
    wobble = noise * np.random.default_rng(1).standard_normal(len(PROMPTS))
    values = {"reward/proxy": (proxy + wobble).tolist(), "reward/gold": (gold + wobble).tolist(),
              "diversity/extra": (extra + wobble).tolist()}
    values |= {f"style/{name}": [luminance if name == "luminance" else 0.5] * len(PROMPTS) for name in STYLE}
    return PromptMetrics(PROMPTS, seeds, values, dict.fromkeys(values, 1.0) | {"style/luminance": 0.1})


def word(limits=None, noise=0.0, **after):
    return verdict_of(measured(), measured(noise=noise, **after), "proxy", limits or VerdictLimits()).word


def test_healthy_collapsed_hacked_and_undecided():
    assert word(proxy=1.0) == "healthy"
    assert word(proxy=1.0, extra=0.8) == "collapsed"
    assert word(proxy=1.0, extra=0.9) == "healthy"
    assert word(proxy=1.0, gold=-0.5) == "hacked"
    assert word(proxy=1.0, gold=-0.5, extra=0.2) == "hacked"
    assert word(proxy=1.0, extra=0.85, noise=0.4) == "undecided"


def test_a_fall_of_held_out_rewards_is_hacking_only_when_the_proxy_rose():
    assert word(proxy=0.0, gold=-0.5) == "undecided"
    assert word(proxy=-1.0, gold=-0.5) == "undecided"


def test_a_small_sure_fall_is_no_hacking():
    assert word(proxy=1.0, gold=-0.05) == "healthy"
    assert word(proxy=1.0, gold=-0.15) == "hacked"


def test_style_drift_is_collapse_when_the_proxy_rose():
    assert word(proxy=1.0, luminance=0.75) == "collapsed"
    assert word(proxy=0.0, luminance=0.75) == "undecided"
    assert word(proxy=1.0, luminance=0.65) == "healthy"
    assert word(VerdictLimits(drift=1.0), proxy=1.0, luminance=0.65) == "collapsed"


def test_the_evidence_says_what_was_found():
    verdict = verdict_of(measured(), measured(proxy=1.0, gold=-0.5, extra=0.5), "proxy")
    assert verdict.diversity == pytest.approx((-0.5, -0.5, -0.5))
    assert any("gold, which was not optimised, fell by 0.50" in reason for reason in verdict.reasons)
    assert any("fell by 50 %" in reason for reason in verdict.reasons)
    assert verdict.rewards["proxy"].value == pytest.approx(1.0)


def test_without_diversity_or_held_out_rewards_it_says_so():
    base, after = measured(seeds=1), measured(proxy=1.0, seeds=1)
    for each in (base, after):
        del each.values["diversity/extra"], each.values["reward/gold"]
    verdict = verdict_of(base, after, "proxy")
    assert verdict.word == "undecided" and verdict.diversity is None
    assert any("undefined with one generation" in reason for reason in verdict.reasons)
    assert any("hacking could not be seen" in reason for reason in verdict.reasons)


def test_other_prompts_or_seeds_are_refused():
    with pytest.raises(ValueError, match="different prompts or seeds"):
        verdict_of(measured(), measured(seeds=8), "proxy")


def test_limits_are_checked():
    for wrong in ({"budget": 0.0}, {"budget": 1.0}, {"drift": 0.0}, {"tolerance": 0.05}):
        with pytest.raises(ValueError, match="budget"):
            VerdictLimits(**wrong)


def test_more_held_out_rewards_widen_their_intervals():
    base, after = measured(noise=0.5), measured(proxy=1.0, gold=-0.2, noise=-0.5)
    alone = verdict_of(base, after, "proxy").rewards["gold"]
    for m in (base, after):
        m.values["reward/more"], m.spread["reward/more"] = m.values["reward/proxy"], 1.0
    shared = verdict_of(base, after, "proxy").rewards["gold"]
    assert shared.high - shared.low > alone.high - alone.low


def test_the_front_and_the_point_to_go_back_to():
    points = [(0.0, 1.0), (0.5, 0.9), (0.4, 0.8), (1.0, 0.5), (0.9, 0.3)]
    assert front(points) == [0, 1, 3]
    assert best_point([(0.0, 1.0, True), (0.5, 0.9, True), (1.0, 0.5, False)]) == 1
    assert best_point([(0.0, 1.0, True), (0.5, 0.9, False)]) == 0
    with pytest.raises(ValueError, match="no acceptable"):
        best_point([(1.0, 1.0, False)])


def test_percent_reads_well():
    assert percent(Estimate(-0.335, -0.49, 0.02)) == "-34 % [-49, +2]"


def test_reduce_gives_means_spreads_and_diversity():
    rewards = {"r": torch.tensor([[1.0, 3.0], [5.0, float("nan")]])}
    features = torch.tensor([[[1.0, 0], [0, 1]], [[1.0, 0], [1, 0]]])
    style = {name: np.zeros((2, 2)) for name in STYLE}
    together = {"diversity/motion": np.array([0.5, 0.2]), "diversity/lpips": np.full(2, np.nan)}
    found = reduce(["a", "b"], rewards, features, style, together, {"r": "no face"})
    assert found.values["reward/r"] == [2.0, 5.0]
    assert found.spread["reward/r"] == pytest.approx(np.std([1, 3, 5]))
    assert found.notes() == ["r could not score 1 of 4 generations (no face)"]
    assert prompt_metrics_of(json.loads(json.dumps(found.as_dict()))).notes() == found.notes()
    assert found.values["diversity/vendi"] == pytest.approx([2.0, 1.0])
    assert reduce(["a", "b"], rewards, None, style, {}, {"r": ""}).names("diversity") == []


def test_what_is_clear_leaves_its_share_to_the_others():
    """Holm by hand: three at 1/3, then the two that are left at 1/2."""
    needs = {"sure": 0.3, "next": 0.45, "unsure": 0.9}
    asked = []

    def change(name, share):
        asked.append((name, round(share, 3)))
        return Estimate(-1.0, -2.0, -0.1 if share >= needs[name] else 0.1)

    found = shared(needs, change, lambda each: each.high < 0)
    assert asked == [("sure", 0.333), ("next", 0.333), ("unsure", 0.333), ("next", 0.5), ("unsure", 0.5),
                     ("unsure", 1.0)]
    assert [found[name].high < 0 for name in needs] == [True, True, True]
    needs["unsure"] = 2.0
    assert [each.high < 0 for each in shared(needs, change, lambda each: each.high < 0).values()] == [True, True, False]
    assert shared([], change, lambda each: True) == {}


def test_one_look_of_many_must_be_surer():
    fallen = measured(proxy=1.0, extra=0.78, noise=0.15)
    assert verdict_of(measured(), fallen, "proxy").word == "collapsed"
    assert verdict_of(measured(), fallen, "proxy", intervals=repeated_look(100, 3)).word == "undecided"
    assert verdict_of(measured(), measured(proxy=1.0, extra=0.6, noise=0.15), "proxy",
                      intervals=repeated_look(100, 3)).word == "collapsed"
    assert repeated_look(100, 3).error == pytest.approx(0.05 / 100 / 3)


def test_looks_that_were_not_planned_have_a_part_of_the_error_of_their_own():
    planned = [repeated_look(4, look, unplanned=100).error for look in range(1, 5)]
    assert planned == pytest.approx([0.5 * 0.05 / 4 / 3] * 4)
    assert sum(planned) + 100 * unplanned_look(100).error == pytest.approx(0.05 / 3)


def test_what_is_beyond_a_limit_by_its_mean_and_not_clearly_is_unsure():
    def unsure(noise=0.0, **after):
        found = verdict_of(measured(), measured(noise=noise, **after), "proxy", intervals=repeated_look(100, 3))
        return unsure_of(found, VerdictLimits())

    wide = 2.0
    assert unsure(wide, extra=0.7).startswith("diversity within a prompt fell by ")
    assert unsure(wide, proxy=1.0, gold=-0.5).startswith("gold, which was not optimised, fell by ")
    assert unsure(wide, proxy=1.0, gold=-0.5).endswith("standard deviations, which is not clear yet")
    assert unsure(proxy=0.0, luminance=0.75) is None  # nothing rose
    assert unsure(extra=0.95) is None and unsure() is None
    assert unsure(proxy=1.0, extra=0.5) is None  # collapsed, which is sure


def test_of_the_first_prompts_only():
    some = measured(noise=0.1).first(3)
    assert some.prompts == PROMPTS[:3] and {len(values) for values in some.values.values()} == {3}
    assert some.spread == measured().spread


def test_the_mean_of_several_sets_of_seeds_knows_what_any_of_them_knows():
    first, second = measured(extra=1.0, gold=0.0), measured(extra=0.5, gold=1.0)
    second.values["reward/gold"][0] = np.nan
    both = mean_over_seeds([first, second])
    assert both.values["diversity/extra"] == pytest.approx([0.75] * len(PROMPTS))
    assert both.values["reward/gold"][:2] == pytest.approx([0.0, 0.5])
    assert both.prompts == first.prompts and both.seeds == first.seeds and both.spread == first.spread
    first.values["reward/gold"][0] = np.nan
    assert np.isnan(mean_over_seeds([first, second]).values["reward/gold"][0])
    assert mean_over_seeds([first]).values["diversity/extra"] == first.values["diversity/extra"]


def test_what_did_not_change_is_said_with_what_would_have_been_seen():
    unclear = measured(proxy=0.0, noise=0.3)
    first = verdict_of(measured(), unclear, "proxy").reasons[0]
    assert "did not clearly change" in first and "would have been seen in four of five cases" in first
    assert "would have been seen" not in verdict_of(measured(), measured(proxy=1.0), "proxy").reasons[0]
    again = verdict_of(measured(), unclear, "proxy", intervals=repeated_look(20, 1))
    assert "would have been seen" not in again.reasons[0]


def test_refusals_are_told_by_the_interval_of_the_look():
    """2 of 12 prompts refuse: clear of 0 by no look; 8 do: at 95 %, and not where a look may err in one of 10^6."""
    def refusing(count):
        values = {"reward/r": [0.0] * 12, "style/refusals": [1.0] * count + [0.0] * (12 - count)}
        return PromptMetrics(PROMPTS[:12], 2, values, dict.fromkeys(values, 1.0))

    def said(count, **intervals):
        verdict = verdict_of(refusing(0), refusing(count), "r", **intervals)
        return any("decline what was asked" in reason for reason in verdict.reasons)

    assert said(8) and said(8, intervals=repeated_look(2, 1)) and not said(8, intervals=repeated_look(10_000, 1))
    assert not said(1, intervals=repeated_look(2, 1))
