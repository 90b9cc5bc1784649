"""Sums of LoRAs as products, and the nearest of a smaller rank."""

import pytest
import torch

from visalign.generators.lora.averaging import of_rank, weighted_sum
from visalign.generators.lora.layers import LoraMatrices


def made(*sizes, alpha=None, seed=0):
    """A layer's part of [out, rank] and [rank, in, ...]."""
    out, rank, *into = sizes
    rng = torch.Generator().manual_seed(seed)
    ones = [1] * (len(into) - 1)
    return LoraMatrices(torch.randn(rank, *into, generator=rng), torch.randn(out, rank, *ones, generator=rng), alpha)


def product(each):
    return each.up.flatten(1) @ each.down.flatten(1)


def test_a_sum_of_products_is_one_of_the_ranks_sum():
    a, b = made(9, 2, 7, alpha=1.0), made(9, 3, 7, alpha=9.0, seed=1)
    found = weighted_sum([(0.5, {"x": a}), (-2.0, {"x": b, "y": b})])
    torch.testing.assert_close(product(found["x"]), 0.5 * product(a) - 2 * product(b))
    torch.testing.assert_close(product(found["y"]), -2 * product(b))
    assert found["x"].rank == 5 and found["y"].rank == 3


def test_it_is_no_mean_of_the_factors():
    """By hand: B A is 1 x 2 and 3 x 4, so their mean is 7; the mean factors are 2 and 3, and their product is 6."""
    one, other = (LoraMatrices(torch.tensor([[down]]), torch.tensor([[up]])) for up, down in ((1.0, 2.0), (3.0, 4.0)))
    assert product(weighted_sum([(0.5, {"x": one}), (0.5, {"x": other})])["x"]).item() == 7


def test_a_smaller_rank_loses_the_smallest_directions():
    """By hand: diag(4, 3) without its smaller part lacks 3 of a norm of 5."""
    each = LoraMatrices(torch.eye(2), torch.diag(torch.tensor([4.0, 3.0])))
    kept, lost = of_rank({"net": {"x": each}}, 1)
    torch.testing.assert_close(product(kept["net"]["x"]), torch.tensor([[4.0, 0], [0, 0]]))
    assert kept["net"]["x"].rank == 1 and lost == pytest.approx(0.6)


@pytest.mark.parametrize("sizes", [(9, 5, 7), (4, 6, 7), (6, 4, 3, 2, 2)])
def test_it_is_the_nearest_of_that_rank(sizes):
    each = made(*sizes)
    kept, lost = of_rank({"net": {"x": each, "y": made(5, 2, 5, seed=2)}}, 2)
    whole = product(each)
    u, values, v = torch.linalg.svd(whole)
    torch.testing.assert_close(product(kept["net"]["x"]), u[:, :2] * values[:2] @ v[:2], atol=1e-5, rtol=1e-5)
    assert kept["net"]["x"].down.shape == (2, *each.down.shape[1:])
    assert kept["net"]["y"].rank == 2
    missing = torch.linalg.norm(whole - product(kept["net"]["x"]))
    size = torch.sqrt(whole.square().sum() + product(kept["net"]["y"]).square().sum())
    assert lost == pytest.approx(float(missing / size), rel=1e-4)


def test_what_is_of_the_sum_s_rank_anyway_stays_as_it_is():
    each = made(9, 2, 7)
    kept, lost = of_rank({"net": {"x": each}}, 4)
    assert kept["net"]["x"] is each and lost == 0
