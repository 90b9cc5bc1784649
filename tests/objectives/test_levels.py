"""Rewards that count at some noise levels: hand numbers, and that all of them at all levels is the plain rule."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.levels import LevelSchedule

F64 = torch.float64
NAMES = ("a", "b", "c")
LEVELS = torch.tensor([[0.9, 0.5], [0.6, 0.5], [1.0, 0.7], [0.9, 0.2]], dtype=F64)
GROUPS = torch.zeros(4, dtype=torch.int64)


def found(rewards, names=NAMES, weights=None, levels=LEVELS, layout=("a",), texture=("b",), split=0.6, **settings):
    rewards = torch.tensor(rewards, dtype=F64)
    weights = torch.ones(rewards.shape[1]) if weights is None else torch.tensor(weights)
    schedule = LevelSchedule(layout, texture, split)
    return AdvantageRule(**({"scale": "none", "clip": 10.0, "drop_zero": False} | settings), schedule=schedule)(
        rewards, weights, GROUPS, names, levels=levels)


REWARDS = [[0.0, 6.0], [2.0, 4.0], [4.0, 2.0], [6.0, 0.0]]


def test_each_term_has_the_advantage_of_its_level():
    # a: -3, -1, 1, 3 above .6; b: 3, 1, -1, -3 at .6 and below; together they cancel
    each = found(REWARDS, ("a", "b"))
    assert each.advantages.tolist() == pytest.approx([0, 0, 0, 0])
    expected = torch.tensor([[-3.0, 3], [1, 1], [1, 1], [3, -3]], dtype=F64)
    torch.testing.assert_close(each.by_term, expected)


def test_a_reward_that_neither_or_both_name_counts_everywhere():
    rewards = [[*row, c] for row, c in zip(REWARDS, (0.0, 0.0, 0.0, 4.0), strict=True)]  # c: -1, -1, -1, 3
    expected = torch.tensor([[-4.0, 2], [0, 0], [0, 0], [6, 0]], dtype=F64)
    torch.testing.assert_close(found(rewards).by_term, expected)
    both = found(rewards, layout=("a", "c"), texture=("b", "c"))
    assert torch.equal(both.by_term, found(rewards).by_term)


@pytest.mark.parametrize("combine", ["rewards", "advantages", "gdpo", "worst"])
@pytest.mark.parametrize("layout, texture", [((), ()), (("a", "b"), ("a", "b"))])
def test_all_rewards_at_all_levels_is_the_plain_rule(combine, layout, texture):
    settings = {"combine": combine, "scale": "group_std"}
    each = found(REWARDS, ("a", "b"), [0.3, 1.7], layout=layout, texture=texture, **settings)
    plain = AdvantageRule(**settings, clip=10.0, drop_zero=False)(
        torch.tensor(REWARDS, dtype=F64), torch.tensor([0.3, 1.7]), GROUPS, ("a", "b"))
    assert torch.equal(each.advantages, plain.advantages)
    assert torch.equal(each.by_term, plain.advantages[:, None].expand(-1, 2))


def test_a_sample_without_a_score_has_none_at_any_level():
    each = found([[0.0, 6.0], [torch.nan, torch.nan], [4.0, 2.0], [6.0, 0.0]], ("a", "b"))
    assert each.by_term[1].isnan().all() and not each.by_term[[0, 2, 3]].isnan().any()


def test_levels_on_one_side_are_told():
    schedule = LevelSchedule(("a",), ("b",), 0.6)
    assert schedule.one_sided(0.5, 1.0) == "" and "texture (b)" in schedule.one_sided(0.7, 1.0)
    assert "layout (a)" in schedule.one_sided(0.1, 0.6)


@pytest.mark.parametrize("settings", [{"history": 4}, {"combine": "marble"}])
def test_what_knows_whole_advantages_alone_is_refused(settings):
    with pytest.raises(ValueError, match="schedule goes with neither"):
        AdvantageRule(schedule=LevelSchedule(("a",), ("b",)), **settings)


def test_a_split_is_a_noise_level_and_levels_must_be_known():
    with pytest.raises(ValueError, match="split must be greater than 0"):
        LevelSchedule(("a",), ("b",), 1.0)
    with pytest.raises(ValueError, match="schedule needs the noise levels"):
        found(REWARDS, ("a", "b"), levels=None)
