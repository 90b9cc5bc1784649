import math

import pytest
import torch

from visalign.evaluators.displacement import ches, ches_of_means, entanglement, likeliest

CHOSEN = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [9.0, 9.0]]])
REJECTED = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [7.0, 7.0]]])
MASK = torch.tensor([[True, True, False]])


def test_ches_by_hand():
    """S_w = (2, 1), S_l = (1, 1): <S_w, S_l> = 3, |S_w|^2 = 5, ches = -2; of means 3/4 - 5/4 = -1/2. The third state is
    the end of the answer and does not count."""
    assert ches(CHOSEN, MASK, REJECTED, MASK).item() == -2
    assert ches_of_means(CHOSEN, MASK, REJECTED, MASK).item() == -0.5


def test_equal_answers_have_the_highest_ches_there_is():
    assert ches(CHOSEN, MASK, CHOSEN, MASK).item() == 0


def test_entanglement_by_hand():
    """g_w = (1, 0), g_l = (2, 2): cosine 1/sqrt 2, norm ratio sqrt 8, and <g_w, g_l> = 2 > 1: both fall. With
    g_l = (0, 3) they are orthogonal and the chosen one rises."""
    found = entanglement(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0]))
    assert found == pytest.approx((1 / math.sqrt(2), math.sqrt(8), True))
    assert entanglement(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])) == pytest.approx((0, 3, False))


def test_entropy_of_the_likeliest_by_hand():
    """Shares 1/2, 1/4, 1/4: of the two likeliest, renormalised 2/3 and 1/3, the mass is 3/4."""
    logits = torch.tensor([[[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]]).log()
    entropy, mass = likeliest(logits, torch.tensor([[True, False]]), count=2)
    assert mass.item() == pytest.approx(0.75)
    assert entropy.item() == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3), abs=1e-6)
