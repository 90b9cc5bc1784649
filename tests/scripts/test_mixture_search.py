"""The outer step of the search for a mixture's weights, where the optimum is known; the study itself is run by hand."""

import pytest
import torch


@pytest.fixture
def search():
    import mixture_search

    return mixture_search


def test_equal_scores_give_no_step(search):
    at = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    found, tried = search.outer_step(at, lambda weights: 4.0, torch.Generator().manual_seed(0), pairs=3)
    assert torch.equal(found, at) and len(tried) == 6


def test_a_step_by_hand(search):
    """Two weights: the direction is (d, -d); J of the first weight is its log-odds, so the slope is exact."""
    at, rng = torch.zeros(2, dtype=torch.float64), torch.Generator().manual_seed(1)
    drawn = torch.randn(2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    d = ((drawn[0] - drawn[1]) / 2).item()
    found, tried = search.outer_step(at, lambda w: (w[0] / w[1]).log().item(), rng, scale=0.5, rate=0.1)
    assert found.tolist() == pytest.approx([0.1 * 2 * d * d, -0.1 * 2 * d * d])
    assert [weights.sum().item() for weights, _ in tried] == pytest.approx([1, 1])
    assert tried[0][0].tolist() == pytest.approx(tried[1][0].flip(0).tolist())


def test_the_optimum_of_a_quadratic_is_reached(search):
    """Inner problem: theta(w) = sum_k w_k c_k, of targets c_k; J = -|theta - wanted|^2 for a wanted mixture."""
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    wanted = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    at, rng = torch.zeros(3, dtype=torch.float64), torch.Generator().manual_seed(0)
    for _ in range(400):
        at, _ = search.outer_step(at, lambda w: -(w @ targets - wanted @ targets).square().sum().item(), rng,
                                  scale=0.1, rate=0.5, pairs=2)
    assert search.simplex(at).tolist() == pytest.approx(wanted.tolist(), abs=0.01)
