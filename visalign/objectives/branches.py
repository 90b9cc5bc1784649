"""Advantages of the edges of a tree of samples, whose trunk divides in two at some sampling steps (BranchGRPO).

    R(node) = mean of the rewards of its leaves,   A(edge into a node) = (R(node) - mean) / (std + eps)

over the nodes of its depth that belong to its prompt, std with ddof 1, clipped. Li et al. 2025 (arXiv 2509.06040).

Each leaf is a sample, and learns from every edge that leads to it: an edge counts once for each of its leaves, as in
the policy gradient of the leaves' own rewards. The leaves of a group stand next to each other, those of one node too.
Differs from the paper in: its code also offers softmax weights of the leaves by their log-probabilities, which measure
only the noise that was drawn.
Recipe: configs/online/branch_grpo.yaml.
"""

import torch
from torch import Tensor


def edge_advantages(rewards: Tensor, group_size: int, splits: int, eps: float, clip: float) -> Tensor:
    """Of leaves' rewards [n], NaN where unknown: float64 [n, splits + 1], column d for edges after d splits.

    0 where a node has nobody to be compared with, or all nodes of its depth are alike; NaN for a leaf without a reward.
    """
    rewards = rewards.double()
    columns = []
    for depth in range(splits + 1):
        leaves = 2**(splits - depth)
        nodes = rewards.view(-1, group_size // leaves, leaves).nanmean(-1)
        columns.append(_standardised(nodes, eps, clip).repeat_interleave(leaves, 1).flatten())
    return torch.stack(columns, 1).masked_fill(rewards.isnan()[:, None], torch.nan)


def _standardised(nodes: Tensor, eps: float, clip: float) -> Tensor:
    """Of the nodes of each group, [groups, nodes]; 0 for one whose leaves have no reward."""
    found = torch.zeros_like(nodes)
    for row, values in zip(found, nodes, strict=True):
        known = values[~values.isnan()]
        if len(known) > 1 and known.max() - known.min() > 1e-6 * known.abs().max():
            row[:] = ((values - known.mean()) / (known.std() + eps)).clamp(-clip, clip).nan_to_num(0.0)
    return found
