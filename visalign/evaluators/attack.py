"""Small changes of an image that a reward is led by: the largest rise within a bound.

    pixels    x <- clip(x + step sign(grad r(x)), x0 - eps, x0 + eps), clipped to [0, 1]    (Madry et al. 2018, PGD)
    latents   d <- d + step |z| g / |g|, pulled back to |d| <= reach |z|                    r of what z + d decodes to

g: the gradient of r, or where it has none an estimate from random directions (SPSA, Spall 1992). For r = w x the first
gains eps |w|_1 exactly, clipping aside.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]
"""From [B, ...] to what is to rise, [B]."""


def climb_pixels(value: Value, start: Tensor, eps: float, step: float, steps: int) -> Tensor:
    """Pixels [B, 3, H, W] in [0, 1] within eps of `start` in every channel, at which `value` is larger.

    Raises ValueError for a gradient that is not finite.
    """
    at = start.detach()
    for _ in range(steps):
        at = at.requires_grad_(True)
        [slope] = torch.autograd.grad(value(at).sum(), at)
        at = at.detach() + step * finite_slope(slope).sign()
        at = torch.maximum(torch.minimum(at, start + eps), start - eps).clamp(0, 1)
    return at


def climb_latents(value: Value, start: Tensor, reach: float, steps: int, slope: Callable[[Value, Tensor], Tensor],
                  step: float = 0.25) -> Tensor:
    """Latents [B, ...] within reach |start| of `start`, each sample by its own norm. slope: `exact_slope` or `guessed`.
    step: of each move, relative to the reach.

    Raises ValueError for a gradient that is not finite.
    """
    longest = reach * length_of_each(start)
    moved = torch.zeros_like(start)
    for _ in range(steps):
        found = finite_slope(slope(value, start + moved))
        moved = moved + step * longest * found / length_of_each(found).clamp(min=1e-12)
        moved = moved * (longest / length_of_each(moved).clamp(min=1e-12)).clamp(max=1)
    return start + moved


def exact_slope(value: Value, at: Tensor) -> Tensor:
    """The gradient."""
    at = at.detach().requires_grad_(True)
    return torch.autograd.grad(value(at).sum(), at)[0]


def guessed(probes: int, size: float, generator: torch.Generator) -> Callable[[Value, Tensor], Tensor]:
    """A slope from values alone: the mean over `probes` random directions D of (r(z + sD) - r(z - sD)) / 2s D, s being
    `size` times the root mean square of z."""
    @torch.no_grad()
    def slope(value: Value, at: Tensor) -> Tensor:
        total = torch.zeros_like(at)
        scale = size * length_of_each(at) / (at[0].numel() ** 0.5)
        for _ in range(probes):
            way = torch.randint(0, 2, at.shape, generator=generator).to(at) * 2 - 1
            change = (value(at + scale * way) - value(at - scale * way)).to(at)
            total += change.view(-1, *[1] * (at.ndim - 1)) / (2 * scale) * way
        return total / probes

    return slope


def length_of_each(tensor: Tensor) -> Tensor:
    """Of each sample, [B, 1, ...]."""
    return tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))


def finite_slope(slope: Tensor) -> Tensor:
    if not slope.isfinite().all():
        raise ValueError("the gradient of the reward is not finite")
    return slope
