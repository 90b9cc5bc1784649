"""Distributions of training times on (0, 1), shared by both processes."""

import torch
from torch import Tensor


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Move times towards noise: `shift t / (1 + (shift - 1) t)` (Esser et al. 2024, eq. 23). Shape kept."""
    return shift * t / (1 + (shift - 1) * t)


def sample_unit_times(n: int, sampling: str, shift: float, generator: torch.Generator) -> Tensor:
    """Training times in (0, 1), float32 [n]: `uniform`, `shifted` uniform, or `logit_normal` (mean 0, std 1), shifted.

    SD3 is trained on the last with shift 3 (Esser et al. 2024, section 3.1 and eq. 23).
    """
    if sampling == "logit_normal":
        t = torch.sigmoid(torch.randn(n, generator=generator))
    elif sampling in ("uniform", "shifted"):
        t = torch.rand(n, generator=generator)
    else:
        raise ValueError(f"timestep sampling '{sampling}' is not one of uniform, logit_normal, shifted")
    return _shifted(t, sampling, shift)


def _shifted(t: Tensor, sampling: str, shift: float) -> Tensor:
    return (t if sampling == "uniform" else shift_times(t, shift)).clamp(1e-4, 1 - 1e-4)


def stratified_unit_times(n: int, sampling: str, shift: float, generator: torch.Generator) -> Tensor:
    """Times of the same distribution in rising order, float32 [n]: one from each of n equally likely parts of it.

    The mean over them of what changes slowly with time has far less variance than over n independent ones.
    """
    shares = (torch.arange(n, dtype=torch.float64) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    t = torch.special.ndtri(shares).sigmoid() if sampling == "logit_normal" else shares
    return _shifted(t.float(), sampling, shift)


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """[B] reshaped to [B, 1, ...] so that it multiplies `like` [B, ...], on its device, in at least float32."""
    return values.to(like.device, torch.promote_types(like.dtype, torch.float32)).view(-1, *[1] * (like.ndim - 1))


def next_time(schedule: Tensor, t: Tensor) -> Tensor:
    """Where a step of a sampling schedule [N + 1], noisiest first and 0 last, leads from times [B] between its own.

    It lies as far along the next interval as t along its own: on a uniform schedule at t - 1 / N, and at least at 0.
    """
    rising = schedule.to(t).flip(0)
    place = (torch.searchsorted(rising, t, right=True) - 1).clamp(0, len(rising) - 2)
    share = ((t - rising[place]) / (rising[place + 1] - rising[place])).clamp(0, 1)
    below = rising[(place - 1).clamp(min=0)]
    return torch.where(place > 0, below + share * (rising[place] - below), 0)
