"""Credit for the steps of an answer: VSRM's step rewards and SLATE's sibling groups (both by their abstracts alone).

VSRM (arXiv 2508.10293): the answer is forced after each step, S_i is the share of tries that are right then, and
d_i = S_i - S_{i-1} is what step i was worth; all d_i of an answer sum to S_last - S_0. SLATE: a group are k
continuations of one prefix that differ in their next step only, so that advantages vary with that step alone: down to
1/T of the variance over whole answers of T steps.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from visalign.objectives.group_figures import group_mean


def step_rewards(success: Tensor) -> Tensor:
    """d_i, [B, K], from the success rate before the first step and after each of K steps, [B, K + 1]; steps that an
    answer lacks are NaN in both."""
    return success[:, 1:] - success[:, :-1]


def rewards_to_go(rewards: Tensor, discount: float = 1.0) -> Tensor:
    """sum_{j >= i} discount^(j - i) d_j of each step, [B, K]; missing steps (NaN) count 0 and stay NaN."""
    total, columns = torch.zeros_like(rewards[:, 0]), []
    for column in rewards.flip(1).unbind(1):
        total = column.nan_to_num(0.0) + discount * total
        columns.append(torch.where(column.isnan(), torch.nan, total))
    return torch.stack(columns[::-1], 1)


def counted_success(rewards: Tensor, threshold: float | None) -> Tensor:
    """What a try counts in S, of any shape: 1 where its reward reaches the threshold, else 0; the reward itself without
    a threshold. A try without a reward (NaN) stays so, and drops out of the mean."""
    return rewards if threshold is None else torch.where(rewards.isnan(), torch.nan, (rewards >= threshold).to(rewards))


def centred_in_group(values: Tensor, groups: Tensor) -> Tensor:
    """Values of steps [B, K] less their mean over all steps of the answers of a group, int64 [B]; NaN stays NaN."""
    index = torch.unique(groups, return_inverse=True)[1].repeat_interleave(values.shape[1])
    return values - group_mean(values.flatten(), index).view_as(values)


def spread_over_tokens(values: Tensor, step: Tensor) -> Tensor:
    """Advantages of tokens [B, L] from those of steps [B, K]; step int64 [B, L] is each token's step, -1 for a token of
    none, which gets 0."""
    return values.gather(1, step.clamp(min=0)).masked_fill(step < 0, 0.0)


def sibling_groups(prefixes: Sequence[Hashable]) -> Tensor:
    """The group of each sample, int64 [n]: samples that continue the same prefix, prompt included, are siblings.

    Raises ValueError for a sample without siblings, which has nothing to be compared with.
    """
    numbers: dict[Hashable, int] = {}
    groups = torch.tensor([numbers.setdefault(prefix, len(numbers)) for prefix in prefixes], dtype=torch.int64)
    alone = (groups.bincount() == 1).nonzero().flatten().tolist()
    if alone:
        raise ValueError(f"sample {groups.tolist().index(alone[0])} continues a prefix that no other sample does")
    return groups
