"""Why preference training makes the chosen answer less likely, measured on pairs before and while it happens.

CHES, Razin et al. 2024 (arXiv 2410.08847): with S the sum of an answer's last-layer hidden states, from the prompt's
last token to the last but one of the answer,

    ches = <S_w, S_l> - |S_w|^2

which is high where the answers are alike to the model, and then both become less likely. Gradient entanglement, Yuan et
al. 2024 (arXiv 2410.13828): both fall where <g_w, g_l> > |g_w|^2, g the gradient of an answer's log-probability. Of
images minus the denoising error stands for it, both errors at the same noise and time.
"""

from collections.abc import Sequence
from statistics import fmean, median
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
    """From the gradients of both log-probabilities, flattened, [N] each; or of both errors, whose signs cancel."""
    chosen, rejected = chosen.double(), rejected.double()
    inner, square = chosen @ rejected, chosen @ chosen
    norms = square.sqrt(), rejected.norm()
    return Entanglement((inner / (norms[0] * norms[1]).clamp(min=1e-30)).item(),
                        (norms[1] / norms[0].clamp(min=1e-30)).item(), bool(inner > square))


def flat_gradient(value: Tensor, weights: Sequence[Tensor], keep_graph: bool = False) -> Tensor:
    """The gradient of a number at all weights, [N], 0 where it does not depend on one; `.grad` stays as it is.

    keep_graph: whether another gradient is taken of the same pass.
    """
    found = torch.autograd.grad(value, weights, retain_graph=keep_graph, allow_unused=True)
    return torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten()
                      for g, w in zip(found, weights, strict=True)])


def entanglement_metrics(found: Sequence[Entanglement]) -> dict[str, float]:
    """Of held-out pairs: the mean cosine, the median ratio of norms, and the share in which both fall; {} of none."""
    return {"held_out/gradient_cosine": fmean(each.cosine for each in found),
            "held_out/gradient_norm_ratio": median(each.norm_ratio for each in found),
            "held_out/both_fall": fmean(each.both_fall for each in found)} if found else {}


def likeliest(logits: Tensor, mask: Tensor, count: int = 10) -> tuple[Tensor, Tensor]:
    """Mean entropy (nats) over the `count` likeliest tokens, renormalised, and their mean mass, [B] each; logits
    [B, L, V] and which tokens count, bool [B, L]. Both falling on held-out chosen answers is over-optimisation."""
    top = logits.float().log_softmax(-1).topk(min(count, logits.shape[-1]), -1).values
    mass = top.exp().sum(-1)
    entropy = torch.special.entr((top - top.logsumexp(-1, keepdim=True)).exp()).sum(-1)
    tokens = mask.sum(1).clamp(min=1)
    return (entropy * mask).sum(1) / tokens, (mass * mask).sum(1) / tokens
