"""Numbers of samples within their groups: means, medians, ranks and win rates; a value that is missing is NaN.

index int64 [n] is the group of each sample, 0 to the number of groups less one.
"""

import torch
from torch import Tensor


def without_partly_scored(rewards: Tensor, index: Tensor) -> Tensor:
    """Rows that lack a reward which others of their group have become NaN: their sum could not be compared."""
    lacking = torch.zeros(len(rewards), dtype=torch.bool)
    for column in rewards.unbind(1):
        lacking |= column.isnan() & (counts(index, ~column.isnan()) > 0)
    return rewards.masked_fill(lacking[:, None], torch.nan)


def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum over columns; a NaN drops out of its row, a row of NaN alone is NaN."""
    total = (values.nan_to_num(0.0) * weights).sum(1)
    return torch.where(values.isnan().all(1), torch.nan, total)


def counts(index: Tensor, where: Tensor | None = None) -> Tensor:
    """Size of each sample's group, [n] float64; only members in `where` count."""
    ones = torch.ones(len(index), dtype=torch.float64) if where is None else where.double()
    return torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, ones)[index]


def group_mean(values: Tensor, index: Tensor) -> Tensor:
    """Mean of each sample's group without NaN, [n]."""
    known = ~values.isnan()
    total = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
    return total.index_add_(0, index, values.nan_to_num(0.0))[index] / counts(index, known)


def group_median(values: Tensor, index: Tensor) -> Tensor:
    """Median of each sample's group without NaN (the lower one of an even number), [n]."""
    medians = torch.stack([values[index == g].nanmedian() for g in range(int(index.max()) + 1)])
    return medians[index]


def alike(values: Tensor, index: Tensor) -> Tensor:
    """Whether all values of a sample's group are the same up to rounding, [n]; a group of one is."""
    high, low = (torch.stack([extreme(values[index == g]) for g in range(int(index.max()) + 1)])[index]
                 for extreme in (lambda v: v.nan_to_num(-torch.inf).max(), lambda v: v.nan_to_num(torch.inf).min()))
    return (high - low) <= 1e-6 * torch.maximum(high.abs(), low.abs())


def first_of_group(where: Tensor, index: Tensor) -> Tensor:
    """The first member of each group that is in `where`, bool [n]."""
    chosen = torch.zeros_like(where)
    for g in range(int(index.max()) + 1):
        members = (where & (index == g)).nonzero().flatten()
        if len(members):
            chosen[members[0]] = True
    return chosen


def win_rates_in_group(values: Tensor, index: Tensor) -> Tensor:
    """The share of the others of its group that each sample beats, a tie counting a half, [n]: mean 1/2 in each group.

    NaN for a sample without a value, and for one that has nobody to meet.
    """
    rates = torch.full_like(values, torch.nan)
    for g in range(int(index.max()) + 1):
        members = ((index == g) & ~values.isnan()).nonzero().flatten()
        if len(members) > 1:
            gaps = values[members][:, None] - values[members][None, :]
            rates[members] = (gaps.sign().sum(1) / (len(members) - 1) + 1) / 2
    return rates


def rank_in_group(values: Tensor, index: Tensor) -> Tensor:
    """Place of each sample in its group by rising value, 0 first, [n] float64."""
    ranks = torch.zeros(len(index), dtype=torch.float64)
    for g in range(int(index.max()) + 1):
        members = (index == g).nonzero().flatten()
        ranks[members[values[members].argsort(stable=True)]] = torch.arange(len(members), dtype=torch.float64)
    return ranks
