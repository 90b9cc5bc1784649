"""What GRPO for answers takes from the advantage rule: numbers of rewards that language models are trained on."""

import math

import pytest
import torch

from tests.objectives.pair_t import CHOSEN, REJECTED
from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.language import log1mexp

RAW = dict(baseline="none", scale="none")


def advantages(rule, rewards, names=("reward",), weights=None, **more):
    rewards = torch.tensor(rewards)
    rewards = rewards[:, None] if rewards.ndim == 1 else rewards
    return rule(rewards, torch.ones(len(names)) if weights is None else weights,
                torch.zeros(len(rewards), dtype=torch.int64), names, **more).advantages.tolist()


def test_unlikely_answers_gain():
    # ranks by likelihood (-4, -2, -3, -1): 0, 2, 1, 3; 1, 1 - 0.25 * 2/4, 0, 1 - 0.25 * 3/4
    given = advantages(AdvantageRule(**RAW, unlikeliness=0.25), [1.0, 1.0, 0.0, 1.0],
                       likelihood=torch.tensor([-4.0, -2.0, -3.0, -1.0]))
    assert given == pytest.approx([1, 0.875, 0, 0.8125])


def test_median_and_mad():
    # (0, 1, 2, 9): median 1, MAD 1: -1, 0, 1, 8 over 1.0001, clipped at 5
    assert advantages(AdvantageRule(baseline="median", scale="mad"), [0.0, 1.0, 2.0, 9.0]) == pytest.approx(
        [-0.9999, 0, 0.9999, 5])


def test_length_counts_only_where_enough_are_right():
    # half of the group is right, below 0.6: no answer's length counts; at 0.5 those of the right ones do
    rule = dict(**RAW, gate="correct", gate_threshold=1.0)
    rewards = [[1.0, -0.3], [1.0, -0.1], [0.0, 0.0], [0.0, 0.0]]
    few, enough = (advantages(AdvantageRule(**rule, gate_share=share), rewards, ("correct", "brevity"))
                   for share in (0.6, 0.5))
    assert few == pytest.approx([1, 1, 0, 0]) and enough == pytest.approx([0.7, 0.9, 0, 0])


def test_the_odds_ratio_of_orpo():
    # a = lp/n: -3, -1.25; o = a - log(1 - e^a): -2.948931, -0.912340; 3 + 0.1 * -log s(-2.036591) = 3.215916
    chosen, rejected = torch.tensor(CHOSEN / 4), torch.tensor(REJECTED / 8)
    odds = [a - log1mexp(a) for a in (chosen, rejected)]
    loss = -chosen - 0.1 * torch.nn.functional.logsigmoid(odds[0] - odds[1])
    assert loss.item() == pytest.approx(3.215916, abs=1e-6)
    assert log1mexp(torch.tensor([-1e-6])).item() == pytest.approx(math.log(1e-6), rel=1e-5)
    assert log1mexp(torch.tensor([-40.0])).item() == pytest.approx(-math.exp(-40), rel=1e-5)
