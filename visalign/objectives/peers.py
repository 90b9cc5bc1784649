"""Collaborative reward modelling: members of an ensemble choose the pairs that another one learns from.

    member e learns from the share 1 - rho(t) of the batch in which member e + 1 (of the last: the first) has least loss
    rho(t) = rho min(1, 3 t), t the share of the run that is done

Two learners err apart at first, so that what one finds easy is a check of the other; one that chooses for itself
confirms its own errors. rho 0 is an ensemble of independent members, to the bit.

Collaborative reward modelling: arXiv 2505.10597 (its abstract; the algorithm is derived).
Differs from the paper in: the two models are heads on one backbone that see the same batches, each with its own weights
and start, and there may be more than two; the curriculum is the rise of rho alone.
Recipe: configs/reward_model/peers.yaml.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def share_dropped(rho: float, done: float) -> float:
    """rho(t) when the share `done` of the run is over."""
    return rho * min(1.0, 3 * done)


def easy_for_peers(dropped: float, together: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The filter that keeps for each member the pairs easiest for its peer, all but the share `dropped`.

    Of losses [B, E, D] the mean over labelled dimensions counts; pairs without a label are kept, and pairs as easy as
    the hardest one that is kept. together: the rows of all processes from those of one. Raises ValueError for one
    member.
    """
    def easiest(losses: Tensor) -> Tensor:
        if losses.shape[1] < 2:
            raise ValueError("peer_filter needs at least 2 members, each of which chooses the pairs of another")
        own = losses.nanmean(2)
        ordered = together(own).sort(0).values  # NaN comes last
        known = int((~ordered[:, 0].isnan()).sum())
        if not known:
            return torch.ones_like(own)
        kept = max(1, known - round(dropped * known))
        weight = ((own <= ordered[kept - 1]) | own.isnan()).to(own)
        return weight.roll(-1, 1)

    return easiest
