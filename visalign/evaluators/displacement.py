"""Why preference training makes the chosen answer less likely, measured on pairs before and while it happens.

CHES, Razin et al. 2024 (arXiv 2410.08847): with S the sum of an answer's last-layer hidden states, from the prompt's
last token to the last but one of the answer,

    ches = <S_w, S_l> - |S_w|^2

which is high where the answers are alike to the model, and then both become less likely. Gradient entanglement, Yuan et
al. 2024 (arXiv 2410.13828): both fall where <g_w, g_l> > |g_w|^2, g the gradient of an answer's log-probability.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def ches(hidden: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
    """CHES of pairs, [B], from hidden states [B, L, D] and which of them count, bool [B, L], of both answers."""
    chosen, rejected = _summed(hidden, mask), _summed(other, other_mask)
    return (chosen * rejected).sum(-1) - chosen.square().sum(-1)


def ches_of_means(hidden: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
    """The same of mean hidden states, [B], which the lengths of the answers do not enter."""
    chosen = _summed(hidden, mask) / mask.sum(1, keepdim=True)
    rejected = _summed(other, other_mask) / other_mask.sum(1, keepdim=True)
    return (chosen * rejected).sum(-1) - chosen.square().sum(-1)


def _summed(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden.double() * mask[..., None]).sum(1)


class Entanglement(NamedTuple):
    """Of one pair: cosine of both gradients, norm of the rejected one's over the chosen one's, and whether a step that
    widens the margin makes both less likely."""

    cosine: float
    norm_ratio: float
    both_fall: bool


def entanglement(chosen: Tensor, rejected: Tensor) -> Entanglement:
    """From the gradients of both log-probabilities, flattened, [N] each."""
    chosen, rejected = chosen.double(), rejected.double()
    inner, square = chosen @ rejected, chosen @ chosen
    norms = square.sqrt(), rejected.norm()
    return Entanglement((inner / (norms[0] * norms[1]).clamp(min=1e-30)).item(),
                        (norms[1] / norms[0].clamp(min=1e-30)).item(), bool(inner > square))


def likeliest(logits: Tensor, mask: Tensor, count: int = 10) -> tuple[Tensor, Tensor]:
    """Mean entropy (nats) over the `count` likeliest tokens, renormalised, and their mean mass, [B] each; logits
    [B, L, V] and which tokens count, bool [B, L]. Both falling on held-out chosen answers is over-optimisation."""
    top = logits.float().log_softmax(-1).topk(min(count, logits.shape[-1]), -1).values
    mass = top.exp().sum(-1)
    entropy = torch.special.entr((top - top.logsumexp(-1, keepdim=True)).exp()).sum(-1)
    tokens = mask.sum(1).clamp(min=1)
    return (entropy * mask).sum(1) / tokens, (mass * mask).sum(1) / tokens
