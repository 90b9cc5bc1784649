"""Entropic optimal transport between two clouds of points, and the map that a plan stands for.

    P = argmin <P, C> - eps H(P),   rows of P sum to 1/n, columns to 1/m        (Sinkhorn; Cuturi 2013, arXiv 1306.0895)
    T(y_i) = sum_j P_ij x_j / sum_j P_ij                                        (barycentric projection)

Of a partial plan rows and columns sum to at most that, and all of it to `mass`: a row and a column are added that take
the rest at no cost, and an infinite one where they meet (Chapel et al. 2020, arXiv 2002.08276).

Computed with logarithms in float64, with eps halved from the largest cost down, so that small eps need few iterations.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def transport_plan(cost: Tensor, epsilon: float, iterations: int = 100) -> Tensor:
    """P, float64 [n, m] with sum 1, for cost [n, m] and epsilon in its units; so many iterations at each eps."""
    return _sinkhorn(cost.double(), *(-math.log(count) for count in cost.shape), epsilon, iterations)


def partial_plan(cost: Tensor, mass: float, epsilon: float, iterations: int = 100) -> Tensor:
    """P, float64 [n, m] with sum `mass` in (0, 1], otherwise as `transport_plan`."""
    padded = F.pad(cost.double(), (0, 1, 0, 1))
    padded[-1, -1] = math.inf
    rows, columns = (torch.tensor([1 / count] * count + [1 - mass], dtype=torch.float64).log() for count in cost.shape)
    return _sinkhorn(padded, rows, columns, epsilon, iterations)[:-1, :-1]


def _sinkhorn(cost: Tensor, rows: float | Tensor, columns: float | Tensor, epsilon: float, iterations: int) -> Tensor:
    """The plan for cost [n, m], whose rows and columns sum to the exponents of `rows` and `columns`."""
    f, g = torch.zeros(len(cost), dtype=torch.float64), torch.zeros(cost.shape[1], dtype=torch.float64)
    level = max(epsilon, cost[cost.isfinite()].abs().max().item())
    while True:
        for _ in range(iterations):
            f = level * (rows - ((g - cost) / level).logsumexp(1))
            g = level * (columns - ((f[:, None] - cost) / level).logsumexp(0))
        if level <= epsilon:
            return ((f[:, None] + g - cost) / level).exp()
        level = max(epsilon, level / 2)


def barycentric(plan: Tensor, points: Tensor) -> Tensor:
    """Where a plan [n, m] sends each of its n points, [n, d], for the m points [m, d] of the other side."""
    return (plan @ points.to(plan)) / plan.sum(1, keepdim=True)


def ridge_map(sources: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """A [d, d] and c [d], float64, so that y A + c is near the target of each source [n, d].

    ridge: in units of the sources' mean variance; it holds A near what least squares gives with little data.
    """
    y, x = sources.double(), targets.double()
    centred = y - y.mean(0)
    gram = centred.T @ centred / len(y)
    held = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    matrix = torch.linalg.solve(gram + held, centred.T @ (x - x.mean(0)) / len(y))
    return matrix, x.mean(0) - y.mean(0) @ matrix
