"""The general preference model's loss: the published sign, hand numbers, and what it is equal to."""

import math

import pytest
import torch

from visalign.objectives.general import GeneralPreferenceLoss, preference_score
from visalign.objectives.reward_model import Comparison, RewardModelLoss

CYCLE = torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in (0, 120, 240)])
"""Each beats the next."""
NAN = torch.full((3, 1), math.nan)


def comparison(a, b, outcome=1.0):
    return Comparison(a[:, None, None], b[:, None, None], torch.full((len(a), 1), outcome), torch.ones(len(a)),
                      NAN[:len(a)], NAN[:len(a)])


def test_unit_vectors_a_third_of_a_turn_apart_beat_one_another_in_a_cycle():
    scores = preference_score(CYCLE, CYCLE.roll(-1, 0))  # sin 120 = .866025
    assert scores.tolist() == pytest.approx([0.866025] * 3, abs=1e-6)


def test_the_sign_is_the_published_one():
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert preference_score(first, second).item() == 1  # <R e_i, e_j> with R e_i = (0, 1)
    j = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert (first @ j @ second).item() == -1  # e_i^T J e_j would turn every answer round


def test_it_is_antisymmetric_and_nothing_beats_itself():
    a, b = torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0))
    assert (preference_score(a, b) + preference_score(b, a)).abs().max() < 1e-6
    assert preference_score(a, a).abs().max() == 0


@pytest.mark.parametrize("tau, probability, loss", [(0.1, 0.999827, 0.000173), (1.0, 0.703918, 0.351093)])
def test_probability_and_loss_by_temperature(tau, probability, loss):
    a, b = CYCLE * tau**-0.5, CYCLE.roll(-1, 0) * tau**-0.5  # as the head gives them
    assert preference_score(a, b).sigmoid().tolist() == pytest.approx([probability] * 3, abs=1e-6)
    assert GeneralPreferenceLoss()(comparison(a, b)).loss.item() == pytest.approx(loss, abs=1e-6)
    # the same pairs written the other way round
    assert GeneralPreferenceLoss()(comparison(b, a, 0.0)).loss.item() == pytest.approx(loss, abs=1e-6)


def test_with_embeddings_of_a_number_and_one_it_is_bradley_terry():
    r_a, r_b = torch.tensor([0.3, -1.0, 2.0]), torch.tensor([1.0, 0.5, -0.4])
    a, b = (torch.stack([r, torch.ones(3)], -1) for r in (r_a, r_b))
    torch.testing.assert_close(preference_score(a, b), r_a - r_b)
    plain = comparison(a, b)._replace(a=r_a[:, None, None], b=r_b[:, None, None])
    for settings in ({}, {"label_smoothing": 0.1}, {"ties": "rao_kupper"}):
        general, scalar = GeneralPreferenceLoss(**settings)(comparison(a, b)), RewardModelLoss(**settings)(plain)
        torch.testing.assert_close(general.loss, scalar.loss)
        assert torch.equal(general.metrics["accuracy"], scalar.metrics["accuracy"])


def test_ratings_have_no_place():
    with pytest.raises(ValueError, match="rating_weight is 1.0: objective general compares"):
        GeneralPreferenceLoss(rating_weight=1.0)
