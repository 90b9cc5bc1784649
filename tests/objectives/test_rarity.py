"""Kinds of samples within a group, and DiverseGRPO's bonus for rare ones."""

import math

import pytest
import torch

from visalign.objectives.advantages import AdvantageRule
from visalign.objectives.rarity import kind_sizes, kinds_a_group, kinds_of

ONE = torch.ones(1)
RAW = {"baseline": "none", "scale": "none", "drop_zero": False}


def clusters(*sizes, noise=0.05, width=32):
    """Features of samples around orthogonal directions, one for each kind."""
    source = torch.Generator().manual_seed(3)
    directions = torch.linalg.qr(torch.randn(width, len(sizes), generator=source)).Q.T
    return torch.cat([directions[i] + noise * torch.randn(size, width, generator=source)
                      for i, size in enumerate(sizes)])


def same_partition(labels, sizes):
    """Whether labels divide samples into runs of these sizes, whatever the kinds are called."""
    runs = labels.split(list(sizes))
    return all(len(run.unique()) == 1 for run in runs) and len(labels.unique()) == len(sizes)


def advantages(rewards, features, **settings):
    groups = torch.zeros(len(rewards), dtype=torch.int64)
    sizes = kind_sizes(features, groups, settings.get("kinds", 0))
    rule = AdvantageRule(**({"eps": 1e-12} | settings))
    return rule(torch.tensor(rewards, dtype=torch.float64)[:, None], ONE, groups, kind_sizes=sizes).advantages


def test_three_of_a_kind_and_one_apart():
    # sqrt(4/3) and sqrt(4/1), in units of rarity
    bonus = advantages([0.0] * 4, clusters(3, 1), rarity=1.0, **RAW)
    assert bonus.tolist() == pytest.approx([1.155, 1.155, 1.155, 2], abs=5e-4)
    assert advantages([1.0, 2.0, 3.0, 4.0], clusters(3, 1), rarity=0.5, **RAW).tolist() == pytest.approx(
        [1 + 0.5 * math.sqrt(4 / 3), 2 + 0.5 * math.sqrt(4 / 3), 3 + 0.5 * math.sqrt(4 / 3), 5], abs=1e-6)
    # of equal rewards the rare one gains: mean and deviation of (a, a, a, b) give (-1, -1, -1, 3) / sqrt 3
    assert advantages([5.0] * 4, clusters(3, 1), rarity=0.3).tolist() == pytest.approx(
        [-1 / math.sqrt(3)] * 3 + [math.sqrt(3)], abs=1e-6)


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_one_kind_changes_no_advantage(baseline):
    rewards, alike = [1.0, 2.0, 3.0, 6.0], clusters(4)
    assert kind_sizes(alike, torch.zeros(4, dtype=torch.int64)).tolist() == [4] * 4
    plain = AdvantageRule(baseline=baseline)(torch.tensor(rewards)[:, None], ONE, torch.zeros(4, dtype=torch.int64))
    found = advantages(rewards, alike, rarity=0.7, baseline=baseline, eps=1e-4)
    torch.testing.assert_close(found, plain.advantages, atol=1e-12, rtol=1e-12)


def test_without_rarity_nothing_changes():
    rewards, groups = torch.randn(12, 2), torch.arange(12) // 4
    plain = AdvantageRule()(rewards, torch.ones(2), groups)
    given = AdvantageRule(rarity=0.0)(rewards, torch.ones(2), groups, kind_sizes=torch.randint(1, 4, (12,)).double())
    assert torch.equal(plain.advantages, given.advantages)


@pytest.mark.parametrize("sizes", [(3, 1), (2, 2), (4, 4), (5, 3), (12,), (8, 2, 2), (7, 1), (4, 4, 4), (1, 23)])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_kinds_are_found_with_their_number(sizes, noise):
    assert same_partition(kinds_of(clusters(*sizes, noise=noise)), sizes)


def test_samples_that_are_all_equally_far_apart_are_of_one_kind():
    assert kinds_of(torch.eye(6)).tolist() == [0] * 6
    spread = torch.randn(12, 256, generator=torch.Generator().manual_seed(1))
    assert kinds_of(spread).tolist() == [0] * 12


def test_a_given_number_of_kinds_is_kept_but_for_samples_that_are_the_same():
    assert len(kinds_of(clusters(12), 3).unique()) == 3
    assert same_partition(kinds_of(clusters(4, 4, 4), 3), (4, 4, 4))
    assert kinds_of(torch.ones(6, 8), 3).tolist() == [0] * 6


def test_groups_are_divided_apart_and_their_order_does_not_matter():
    features, groups = torch.cat([clusters(3, 1), clusters(2, 2)]), torch.tensor([0] * 4 + [1] * 4)
    sizes = kind_sizes(features, groups)
    assert sizes.tolist() == [3, 3, 3, 1, 2, 2, 2, 2] and kinds_a_group(sizes, groups) == pytest.approx(2)
    order = torch.tensor([5, 0, 7, 2, 3, 4, 6, 1])
    assert kind_sizes(features[order], groups[order]).tolist() == sizes[order].tolist()


def test_what_lacks_or_spoils_the_features_is_refused():
    groups = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="set reward.features"):
        AdvantageRule(rarity=0.1)(torch.zeros(3, 1), ONE, groups)
    with pytest.raises(ValueError, match="reward.features.*not finite"):
        kind_sizes(torch.tensor([[1.0, 0.0], [math.nan, 0.0], [0.0, 1.0]]), groups)


@pytest.mark.parametrize("settings, message", [
    ({"rarity": 0.1, "combine": "gdpo"}, "combine rewards"), ({"rarity": 0.1, "history": 4}, "without history"),
    ({"rarity": 0.1, "kinds": 1}, "at least 2"), ({"kinds": 3}, "goes with rarity only")])
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvantageRule(**settings)
