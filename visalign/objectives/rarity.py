"""How rare a sample's kind is among the samples of its prompt: spectral clustering of each group's features.

    W_ij = exp(-d_ij^2 / (s_i s_j)),   L = 1 - D^-1/2 W D^-1/2,   d Euclidean, s_i the distance to the nearest other

with unit features, whose d^2 is twice the cosine distance. A group's kinds are the clusters of the rows of the first k
eigenvectors of L, each to unit length (Ng et al. 2001; local scales by Zelnik-Manor and Perona 2004). k is where the
gap between neighbouring eigenvalues is widest, or given. Nothing is drawn at random.

DiverseGRPO (Liu et al. 2025, arXiv 2512.21514) rewards rare kinds with these sizes (advantages.py).
Differs from the paper in: features are any open_clip model's; its number of clusters is not known here, so it is found.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.online import members_of

SAME = 0.01
"""Distance of unit features (0 to 2) below which two samples look the same."""
_ROUNDS = 50


def kind_sizes(features: Tensor, groups: Tensor, kinds: int = 0) -> Tensor:
    """How many samples of each sample's group are of its kind, itself included, float64 [n].

    features [n, D], groups int64 [n]; kinds: clusters of a group, 0 finds their number. Raises ValueError for features
    that are not finite.
    """
    if not features.isfinite().all():
        raise ValueError("rarity: the features of a sample (reward.features) are not finite")
    sizes = torch.zeros(len(groups), dtype=torch.float64)
    for members in members_of(groups):
        labels = kinds_of(features[members], kinds)
        sizes[members] = labels.bincount()[labels].double()
    return sizes


def kinds_a_group(sizes: Tensor, groups: Tensor) -> float:
    """How many kinds a group has in the mean, from the kind_sizes of its samples."""
    return (1 / sizes).sum().item() / len(members_of(groups))


def kinds_of(features: Tensor, kinds: int = 0) -> Tensor:
    """The cluster of each sample of one group, int64 [G], from features [G, D]."""
    points = F.normalize(features.double(), dim=-1)
    apart = (2 - 2 * points @ points.mT).clamp(min=0).sqrt()
    alone = torch.zeros(len(points), dtype=torch.int64)
    if len(points) < 2 or apart.max() < SAME:
        return alone
    nearest = (apart + torch.diag(torch.full((len(apart),), torch.inf, dtype=apart.dtype))).amin(1).clamp(min=SAME)
    likeness = (-apart.square() / nearest.outer(nearest)).exp().fill_diagonal_(1.0)
    root = likeness.sum(1).rsqrt()
    values, vectors = torch.linalg.eigh(torch.eye(len(apart), dtype=apart.dtype)
                                        - root[:, None] * likeness * root[None, :])
    count = min(kinds, len(points)) or 1 + int(values.diff().argmax())
    return alone if count == 1 else _nearest_centres(F.normalize(vectors[:, :count], dim=-1), count)


def _nearest_centres(rows: Tensor, count: int) -> Tensor:
    """k-means of rows [G, k], int64 [G]; it starts from the first row and, each time, the row farthest from those."""
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(rows, rows[chosen]).amin(1).argmax()))
    centres, labels = rows[chosen], torch.full((len(rows),), -1)
    for _ in range(_ROUNDS):
        found = torch.cdist(rows, centres).argmin(1)
        if torch.equal(found, labels):
            break
        labels = found
        centres = torch.stack([rows[labels == k].mean(0) if (labels == k).any() else centres[k] for k in range(count)])
    return labels
