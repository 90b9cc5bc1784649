"""Advantages: hand numbers, groups, NaN, and independence of the order in which processes hold samples."""

import math

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule, History

ONE = torch.ones(1)


def advantages(rewards, groups=None, **settings):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    rewards = rewards[:, None] if rewards.ndim == 1 else rewards
    groups = torch.zeros(len(rewards), dtype=torch.int64) if groups is None else torch.tensor(groups)
    extra = {k: settings.pop(k) for k in ("weights", "names", "likelihood", "history") if k in settings}
    weights = extra.pop("weights", torch.ones(rewards.shape[1]))
    return AdvantageRule(**({"eps": 1e-12, "drop_zero": False} | settings))(rewards, weights, groups, **extra)


def test_group_standardising_has_ddof_zero():
    found = advantages([1.0, 2.0, 3.0, 6.0]).advantages
    torch.testing.assert_close(found, torch.tensor([-1.0690, -0.5345, 0, 1.6035], dtype=torch.float64), atol=1e-4,
                               rtol=0)


def test_win_rates():
    # 1 beats none of 3; 2 beats one and ties one: 1.5 of 3; 5 beats all
    raw = dict(shape="win_rate", baseline="none", scale="none")
    rates = advantages([1.0, 2.0, 2.0, 5.0], **raw).advantages
    assert rates.tolist() == pytest.approx([0, 0.5, 0.5, 1])
    # no rescaling changes them, and every group of G sums to G / 2
    again = advantages([math.exp(r) for r in (1.0, 2.0, 2.0, 5.0)], **raw).advantages
    assert torch.equal(rates, again)
    groups = [0, 1, 0, 1, 1, 0, 2]
    several = advantages([0.3, 4.0, 0.1, 4.0, -7.0, float("nan"), 1.0], groups, **raw).advantages
    assert several.nan_to_num(-1).tolist() == pytest.approx([1, 0.75, 0, 0.75, 0, -1, -1])
    # two rewards, weighed 1 and 2: rates (0, 1) and (1, 0), around their mean 1.5
    both = advantages([[1.0, 9.0], [2.0, 3.0]], shape="win_rate", scale="none", weights=torch.tensor([1.0, 2.0]))
    assert both.advantages.tolist() == pytest.approx([0.5, -0.5])


def test_an_outlier_loses_its_pull_when_win_rates_are_learnt_from():
    rewards = [0.0, 1.0, 1.0, 3.0]
    assert advantages(rewards, shape="win_rate", baseline="none", scale="none").advantages.tolist() == [0, 0.5, 0.5, 1]
    root = math.sqrt(2)
    assert advantages(rewards, shape="win_rate").advantages.tolist() == pytest.approx([-root, 0, 0, root], abs=1e-9)
    assert advantages(rewards).advantages[3].item() == pytest.approx(1.606, abs=5e-4)
    farther = advantages([0.0, 1.0, 1.0, 300.0], shape="win_rate").advantages
    assert farther.tolist() == pytest.approx([-root, 0, 0, root], abs=1e-9)


@pytest.mark.parametrize("settings", [{}, {"scale": "global_std"}, {"scale": "none"}, {"baseline": "leave_one_out"}])
def test_advantages_of_a_group_add_up_to_zero(settings):
    rewards, groups = torch.randn(12).tolist(), [0] * 4 + [1] * 4 + [2] * 4
    found = advantages(rewards, groups, **settings).advantages.view(3, 4)
    torch.testing.assert_close(found.sum(1), torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0)


def test_global_scale_damps_groups_whose_rewards_barely_differ():
    rewards, groups = [0.0, 0.01, 0.0, 10.0], [0, 0, 1, 1]
    assert advantages(rewards, groups).advantages.abs().tolist() == pytest.approx([1, 1, 1, 1])
    damped = advantages(rewards, groups, scale="global_std").advantages.abs()
    assert damped[1] < 0.01 < damped[3]


def test_dr_grpo_only_subtracts_the_mean_and_leave_one_out_the_others_mean():
    assert advantages([1.0, 2.0, 6.0], scale="none").advantages.tolist() == pytest.approx([-2, -1, 3])
    # 1 - 4, 2 - 3.5, 6 - 1.5
    assert advantages([1.0, 2.0, 6.0], baseline="leave_one_out", scale="none").advantages.tolist() == pytest.approx(
        [-3, -1.5, 4.5])


def test_mc_grpo_median_and_the_one_sample_it_leaves_out():
    found = advantages([0.0, 0.0, 1.0, 5.0, 6.0], baseline="median", scale="mad", eps=1e-3)
    assert found.advantages.tolist() == pytest.approx([-0.999, -0.999, 0, 3.996, 4.995], abs=1e-3)
    assert found.trained.tolist() == [True, True, False, True, True]


def test_mc_grpo_with_mostly_tied_rewards_falls_back_to_the_standard_deviation():
    # MAD is 0; the published rule would give -1000. Median 1, std sqrt(0.24)
    found = advantages([0.0, 0.0, 1.0, 1.0, 1.0], baseline="median", scale="mad", eps=1e-3)
    assert found.advantages.tolist() == pytest.approx([-1 / (0.24**0.5 + 1e-3)] * 2 + [0, 0, 0], abs=1e-6)
    assert found.trained.sum() == 4


def test_unlikeliness_hand_numbers():
    # r = (1,1,0,0), ranks (0,1,2,3), beta .25, G 4 -> (1, .9375, 0, 0), mean .484375
    found = advantages([1.0, 1.0, 0.0, 0.0], scale="none", unlikeliness=0.25,
                       likelihood=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    assert found.advantages.tolist() == pytest.approx([1 - 0.484375, 0.9375 - 0.484375, -0.484375, -0.484375])
    with pytest.raises(ValueError, match="at least 0"):
        advantages([-1.0, 1.0], unlikeliness=0.25, likelihood=torch.tensor([0.1, 0.2]))


def test_gate_puts_every_sample_below_the_threshold_under_every_sample_above():
    rewards = [[0.2, 9.0], [0.9, 0.0], [0.8, 5.0], [0.3, 7.0]]
    found = advantages(rewards, gate="main", gate_threshold=0.5, names=("main", "extra"), scale="none").advantages
    passed, failed = found[[1, 2]], found[[0, 3]]
    assert passed.min() > failed.max()
    # 0.2, 0.9, 5.8, 0.3 around their mean 1.8
    assert found.tolist() == pytest.approx([-1.6, -0.9, 4.0, -1.5])


def test_gate_by_share_switches_whole_groups():
    rewards = [[1.0, 2.0], [1.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    found = advantages(rewards, [0, 0, 1, 1], gate="main", gate_threshold=0.5, gate_share=0.6, names=("main", "extra"),
                       scale="none").advantages
    assert found.tolist() == pytest.approx([1, -1, 0.5, -0.5])  # the second group has only half: primary reward alone


def test_sum_of_advantages_does_not_let_the_widest_reward_rule():
    rewards = [[0.0, 100.0], [1.0, 0.0]]
    assert advantages(rewards, combine="advantages").advantages.tolist() == pytest.approx([0, 0], abs=1e-9)
    assert advantages(rewards).advantages.tolist() == pytest.approx([1, -1])


def test_gdpo_standardises_the_sum_again():
    found = advantages([[0.0, 0.0], [1.0, 1.0], [0.0, 3.0], [2.0, 0.0]], [0, 0, 1, 1], combine="gdpo").advantages
    assert found.mean().item() == pytest.approx(0) and found.std(correction=0).item() == pytest.approx(1)


def test_a_reward_that_does_not_apply_drops_out_of_its_prompt():
    nan = math.nan
    found = advantages([[0.0, nan], [1.0, nan], [0.0, 1.0], [1.0, 0.0]], [0, 0, 1, 1], combine="advantages").advantages
    assert found.tolist() == pytest.approx([-1, 1, 0, 0], abs=1e-9)


def test_a_sample_without_reward_is_left_out_of_its_group():
    found = advantages([1.0, math.nan, 3.0])
    assert found.advantages[[0, 2]].tolist() == pytest.approx([-1, 1]) and found.advantages[1].isnan()
    assert found.trained.tolist() == [True, False, True]


def test_a_sample_that_lacks_one_of_several_rewards_is_left_out():
    found = advantages([[0.0, 0.0], [1.0, math.nan], [2.0, 4.0]])
    assert found.advantages[1].isnan() and found.advantages[[0, 2]].tolist() == pytest.approx([-1, 1])


def test_groups_without_difference_have_advantage_zero_and_are_counted():
    found = advantages([2.0, 2.0, 1.0, 3.0], [0, 0, 1, 1], drop_zero=True)
    assert found.advantages.tolist() == pytest.approx([0, 0, -1, 1])
    assert found.zero_std == 0.5 and found.trained.tolist() == [False, False, True, True]


def test_rounding_is_no_difference():
    assert advantages([0.1 + 0.2, 0.3, 0.3]).advantages.tolist() == [0, 0, 0]


def test_clip_counts():
    found = advantages([0.0] * 99 + [1.0], clip=2.0)
    assert found.advantages.max() == 2 and found.clipped.sum() == 1


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_advantages_do_not_depend_on_which_process_holds_which_sample(ranks):
    g = torch.Generator().manual_seed(1)
    rewards, groups = torch.randn(16, 1, generator=g, dtype=torch.float64), torch.arange(16) // 4
    rule = AdvantageRule()
    expected = rule(rewards, ONE, groups).advantages
    order = torch.arange(16).view(-1, ranks).T.flatten()  # as gathered from interleaved processes
    found = rule(rewards[order], ONE, groups[order]).advantages
    torch.testing.assert_close(found, expected[order])


def test_history_takes_over_once_a_prompt_has_enough_rewards_and_survives_a_restart():
    history = History(4)
    rule = AdvantageRule(history=4, eps=1e-12)
    history.add(["a", "b"], [1.0, 5.0])
    first = rule(torch.tensor([[1.0], [5.0]]), ONE, torch.tensor([0, 1]), history=history)
    assert first.advantages.tolist() == pytest.approx([-1, 1])  # both by the whole epoch, mean 3 and std 2
    again = History(4)
    again.load_state_dict(history.state_dict())
    again.add(["a", "a"], [3.0, 3.0])
    found = rule(torch.tensor([[3.0], [3.0]]), ONE, torch.tensor([0, 0]), history=again)
    # the prompt's rewards are 1, 3, 3: mean 7/3, std sqrt(8/9)
    assert found.advantages.tolist() == pytest.approx([(3 - 7 / 3) / (8 / 9) ** 0.5] * 2)


@pytest.mark.parametrize("settings, message", [
    ({"clip": 0.0}, "clip"), ({"unlikeliness": 1.5}, "unlikeliness"), ({"scale": "mad"}, "median"),
    ({"baseline": "median", "combine": "advantages"}, "median"), ({"history": -1}, "history"),
    ({"history": 4, "scale": "none"}, "history"), ({"shape": "win_rate", "gate": "x"}, "win_rate goes with neither"),
    ({"shape": "win_rate", "history": 4}, "win_rate goes with neither")])
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvantageRule(**settings)
