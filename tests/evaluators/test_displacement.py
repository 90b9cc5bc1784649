import math

import pytest
import torch

from visalign.evaluators.displacement import (
    Entanglement,
    ches,
    ches_of_means,
    entanglement,
    entanglement_metrics,
    flat_gradient,
    likeliest,
)

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


def test_entanglement_of_errors_is_that_of_log_probabilities():
    """E = -log p up to a constant: both gradients change their sign, and nothing else does."""
    g_w, g_l = torch.tensor([1.0, 0.5]), torch.tensor([3.0, 1.0])
    assert entanglement(-g_w, -g_l) == entanglement(g_w, g_l) and entanglement(g_w, g_l).both_fall
    assert entanglement(g_w, g_w) == pytest.approx((1, 1, False))


def test_a_gradient_is_flat_has_zeros_where_nothing_depends_and_leaves_no_trace():
    """(2 a + b^2) at a = 1, b = (3, 4): 2, 6, 8; c is not used."""
    a, b, c = (torch.tensor(values, requires_grad=True) for values in ([1.0], [3.0, 4.0], [5.0]))
    value = (2 * a).sum() + b.square().sum()
    assert flat_gradient(value, [a, b, c], keep_graph=True).tolist() == [2, 6, 8, 0]
    assert flat_gradient(value, [b]).tolist() == [6, 8] and a.grad is None and b.grad is None


def test_metrics_of_entanglement():
    found = entanglement_metrics([Entanglement(0.5, 1.0, False), Entanglement(0.75, 2.0, True),
                                  Entanglement(0.25, 9.0, False), Entanglement(0.5, 4.0, False)])
    assert found == {"held_out/gradient_cosine": 0.5, "held_out/gradient_norm_ratio": 3.0, "held_out/both_fall": 0.25}
    assert entanglement_metrics([]) == {}


def test_entropy_of_the_likeliest_by_hand():
    """Shares 1/2, 1/4, 1/4: of the two likeliest, renormalised 2/3 and 1/3, the mass is 3/4."""
    logits = torch.tensor([[[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]]).log()
    entropy, mass = likeliest(logits, torch.tensor([[True, False]]), count=2)
    assert mass.item() == pytest.approx(0.75)
    assert entropy.item() == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3), abs=1e-6)
