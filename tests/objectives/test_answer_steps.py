"""Credit for steps: what telescopes, and how much less siblings vary."""

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.answer_steps import (
    centred_in_group,
    counted_success,
    rewards_to_go,
    sibling_groups,
    spread_over_tokens,
    step_rewards,
)

NAN = float("nan")


def test_step_rewards_telescope():
    success = torch.tensor([[0.25, 0.5, 0.375, 1.0], [0.5, 0.5, 0.0, NAN]])
    rewards = step_rewards(success)
    assert rewards[0].tolist() == [0.25, -0.125, 0.625]
    assert rewards[0].sum().item() == success[0, -1] - success[0, 0]  # 1 - 0.25
    assert rewards[1].nansum().item() == -0.5 and rewards[1].isnan().tolist() == [False, False, True]


def test_rewards_to_go():
    # undiscounted: S_last - S_before: 0.75, 0.5, 0.625; discount 0.5: 0.625; -0.125 + 0.3125; 0.25 + 0.09375
    rewards = torch.tensor([[0.25, -0.125, 0.625], [0.0, -0.5, NAN]])
    assert rewards_to_go(rewards)[0].tolist() == [0.75, 0.5, 0.625]
    assert rewards_to_go(rewards, 0.5)[0].tolist() == [0.34375, 0.1875, 0.625]
    assert rewards_to_go(rewards)[1].nan_to_num(9.0).tolist() == [-0.5, -0.5, 9.0]


def test_a_try_counts_as_success_where_it_reaches_the_threshold():
    rewards = torch.tensor([[0.7, 0.69, NAN], [1.0, -2.0, 0.7]])
    assert counted_success(rewards, 0.7).nan_to_num(9.0).tolist() == [[1, 0, 9], [1, 0, 1]]
    assert counted_success(rewards, None) is rewards


def test_steps_are_centred_over_all_steps_of_their_group():
    # group 7: mean of 1, 2, 6 is 3; group 3: mean of 4, 0 is 2; a group of which nothing is known stays unknown
    values = torch.tensor([[1.0, 2.0], [4.0, 0.0], [6.0, NAN], [NAN, NAN]], dtype=torch.float64)
    centred = centred_in_group(values, torch.tensor([7, 3, 7, 5]))
    assert centred.nan_to_num(9.0).tolist() == [[-2, -1], [2, -2], [3, 9], [9, 9]]


def test_tokens_get_what_their_step_is_worth():
    step = torch.tensor([[-1, 0, 0, 1], [0, 1, -1, -1]])
    assert spread_over_tokens(torch.tensor([[0.25, -0.5], [1.0, 2.0]]), step).tolist() == [
        [0, 0.25, 0.25, -0.5], [1, 2, 0, 0]]
    assert spread_over_tokens(torch.tensor([[NAN, 1.0]]), torch.tensor([[-1, 1]])).tolist() == [[0, 1]]


def test_siblings():
    assert sibling_groups([("a", 1), ("b", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 2)]).tolist() == [0, 1, 0, 1, 2, 2]
    with pytest.raises(ValueError, match="sample 1 continues a prefix that no other"):
        sibling_groups(["x", "y", "x"])


def test_advantages_of_siblings_vary_by_one_of_t_steps():
    # rewards of T = 8 steps add up, each with variance 1: whole answers vary by 8 within a group, siblings, which share
    # all but one step, by 1
    draw, count, k, steps = torch.Generator().manual_seed(0), 1500, 4, 8
    rule = AdvantageRule(baseline="mean", scale="none", clip=1e6)
    whole = torch.randn(count * k, steps, generator=draw)
    shared = torch.randn(count, 1, steps, generator=draw).expand(count, k, steps).clone()
    shared[:, :, 3] = torch.randn(count, k, generator=draw)
    prompts = torch.arange(count).repeat_interleave(k)
    variances = []
    for rewards, groups in ((whole.sum(1), prompts),
                            (shared.sum(2).flatten(), sibling_groups([(p, "prefix") for p in prompts.tolist()]))):
        variances.append(rule(rewards[:, None], torch.ones(1), groups).advantages.var().item())
    assert variances[1] / variances[0] == pytest.approx(1 / steps, rel=0.1)
