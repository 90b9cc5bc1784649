"""Transport plans: the exact assignment as eps falls, marginals, and the map that a plan stands for."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog

from visalign.rewards.sinkhorn import barycentric, partial_plan, ridge_map, transport_plan


def random(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_small_eps_gives_the_exact_assignment():
    cost = random(8, 8)
    rows, columns = linear_sum_assignment(cost.numpy())
    plan = transport_plan(cost, 1e-3)
    assert (plan * cost).sum().item() == pytest.approx(cost.numpy()[rows, columns].mean(), abs=1e-3)
    assert (plan[rows, columns] - 1 / 8).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(5, 9), (8, 8)])
@pytest.mark.parametrize("epsilon", [1.0, 0.05])
def test_marginals_are_uniform(shape, epsilon):
    plan = transport_plan(random(*shape), epsilon)
    assert (plan.sum(1) - 1 / shape[0]).abs().max() < 1e-4 and (plan.sum(0) - 1 / shape[1]).abs().max() < 1e-4


def test_a_large_eps_gives_the_independent_plan():
    torch.testing.assert_close(transport_plan(random(4, 6), 1e4), torch.full((4, 6), 1 / 24, dtype=torch.float64),
                               atol=1e-5, rtol=0)


def test_a_cloud_moved_by_a_constant_is_carried_by_it():
    y, constant = random(32, 4), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    x = (y + constant)[torch.randperm(32, generator=torch.Generator().manual_seed(1))]  # nobody says which is whose
    carried = barycentric(transport_plan(torch.cdist(y, x).square(), 1e-3), x)
    torch.testing.assert_close(carried, y + constant, atol=1e-3, rtol=0)
    matrix, shift = ridge_map(y, carried, 1e-6)
    new = random(3, 4) + 0.1
    torch.testing.assert_close(new @ matrix + shift, new + constant, atol=5e-3, rtol=0)


def test_a_heavy_ridge_maps_everything_to_the_mean():
    y, x = random(16, 3), random(16, 3) ** 2
    matrix, shift = ridge_map(y, x, 1e6)
    torch.testing.assert_close(y @ matrix + shift, x.mean(0).expand(16, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(5, 9), (8, 8)])
@pytest.mark.parametrize("epsilon", [1.0, 0.05])
def test_a_partial_plan_moves_its_mass_and_nobody_gives_more_than_it_has(shape, epsilon):
    plan = partial_plan(random(*shape), 0.9, epsilon)
    assert plan.sum().item() == pytest.approx(0.9, abs=1e-4) and plan.min() >= 0
    assert plan.sum(1).max() < 1 / shape[0] + 1e-4 and plan.sum(0).max() < 1 / shape[1] + 1e-4


def test_a_small_eps_gives_the_exact_partial_transport():
    cost, mass = random(5, 7), 0.9
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    exact = linprog(cost.flatten().numpy(), A_ub=np.vstack([rows, columns]), b_ub=[1 / n] * n + [1 / m] * m,
                    A_eq=np.ones((1, n * m)), b_eq=[mass])
    assert (partial_plan(cost, mass, 1e-3) * cost).sum().item() == pytest.approx(exact.fun, abs=1e-3)


def test_the_dear_part_is_left_by_hand():
    # half of everything lies at (1, 1) for nothing; of the other half .4 is moved at cost 1, the last .1 by nobody
    plan = partial_plan(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), 0.9, 1e-3)
    torch.testing.assert_close(plan, torch.tensor([[0.5, 0.0], [0.0, 0.4]], dtype=torch.float64), atol=1e-4, rtol=0)


def test_all_of_the_mass_is_the_plan_without_a_rest():
    cost = random(4, 6)
    torch.testing.assert_close(partial_plan(cost, 1.0, 0.05), transport_plan(cost, 0.05))
