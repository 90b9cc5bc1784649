"""RPO for one subject: its loss by hand, and its labels, which are drawn."""

import math
from dataclasses import replace

import pytest
import torch

from visalign.objectives import PairErrors
from visalign.objectives.dpo import DiffusionDPO, FlowDPO
from visalign.objectives.rpo import SubjectRPO


def errors(*values, gap=0.0, coin=None):
    one = torch.ones(1)
    chosen, *others = (torch.tensor([value]) for value in values)
    return PairErrors(chosen, one / 2, one, *others, chosen_reward=0.5 + one * gap, rejected_reward=one / 2,
                      coin=None if coin is None else torch.tensor([coin]))


def test_the_loss_by_hand():
    # k = (1.1 - 1.0) - (1.1 - 1.2) = .2: -log s(.2) = .598139, -log s(-.2) = .798139; E = 1
    assert SubjectRPO()(errors(1.0, 1.2, 1.1, 1.1, coin=0.0)).loss.item() == pytest.approx(1.598139, abs=1e-6)
    assert SubjectRPO()(errors(1.0, 1.2, 1.1, 1.1, coin=0.999)).loss.item() == pytest.approx(1.798139, abs=1e-6)
    assert SubjectRPO()(errors(1.0, 1.2, 1.1, 1.1)).loss.item() == pytest.approx(1.698139, abs=1e-6)


def test_where_policy_and_reference_agree_it_is_imitation_and_log_two():
    for coin in (0.1, 0.9, None):
        loss = SubjectRPO()(errors(0.7, 1.2, 0.7, 1.2, gap=0.1, coin=coin)).loss
        assert loss.item() == pytest.approx(0.7 + math.log(2), abs=1e-6)


@pytest.mark.parametrize("plain", [DiffusionDPO, FlowDPO])
def test_with_the_label_one_it_is_dpo_of_beta_two_that_also_imitates(plain):
    given = errors(1.0, 1.2, 1.1, 1.1, coin=0.0)
    assert torch.equal(SubjectRPO()(given).loss, plain(beta=2, sft_weight=1)(given).loss)
    turned = errors(1.0, 1.2, 1.1, 1.1, coin=0.999)
    assert SubjectRPO(sft_weight=0)(turned).loss.item() == pytest.approx(
        plain(beta=2)(errors(1.2, 1.0, 1.1, 1.1)).loss.item(), abs=1e-6)


def test_how_probable_a_label_is():
    assert SubjectRPO().chance_of(errors(1.0, gap=0.025)).item() == pytest.approx(0.50625, abs=1e-6)
    assert SubjectRPO(label_scale=10).chance_of(errors(1.0, gap=0.025)).item() == pytest.approx(0.562177, abs=1e-6)
    # a label that the data call right in three of four cases: .75 x .50625 + .25 x .49375
    unsure = replace(errors(1.0, gap=0.025), chance=torch.tensor([0.75]))
    assert SubjectRPO().chance_of(unsure).item() == pytest.approx(0.503125, abs=1e-6)


def test_labels_are_ones_as_often_as_the_rewards_say():
    many = 20_000
    coin = torch.rand(many, generator=torch.Generator().manual_seed(0))
    given = replace(errors(1.0), chosen_reward=torch.full((many,), 0.6), rejected_reward=torch.full((many,), 0.5),
                    coin=coin)
    labels = SubjectRPO(label_scale=10).chance_of(given)
    assert set(labels.tolist()) == {0.0, 1.0}
    assert labels.mean().item() == pytest.approx(1 / (1 + math.exp(-1)), abs=3 * 0.5 / math.sqrt(many))


def test_what_it_needs_and_what_does_not_go():
    assert SubjectRPO().needs == {"rejected", "reference", "rewards"} and SubjectRPO().standardise == "none"
    assert SubjectRPO().beta == 2 and SubjectRPO().sft_weight == 1
    with pytest.raises(ValueError, match="carry no reward"):
        SubjectRPO()(replace(errors(1.0, 1.2, 1.0, 1.2), chosen_reward=None))
    for settings, named in (({"label_scale": 0}, "label_scale must be greater than 0"),
                            ({"margin_of": {"reward": 0.2}}, "margin_of")):
        with pytest.raises(ValueError, match=named):
            SubjectRPO(**settings)
