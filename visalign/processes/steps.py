"""One sampling step as a Gaussian policy: its mean, its standard deviation, and the log-probability of what was drawn.

The log-probability is a mean over all d non-batch dimensions, not a sum, as in every published trainer: ratios of two
of them are d-th roots of the true importance ratio, and clip ranges of 1e-4 to 1e-6 mean something only so.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from visalign.processes.times import per_sample


class Moments(NamedTuple):
    """The Gaussian one step draws from: mean [B, ...] and std [B]; std is 0 where the step is deterministic."""

    mean: Tensor
    std: Tensor


def draw(moments: Moments, noise: Tensor | None) -> Tensor:
    """mean + std noise. `noise` may be None where every std is 0."""
    if noise is None:
        return moments.mean
    return moments.mean + per_sample(moments.std, moments.mean) * noise


def normal_log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """log N(sample; mean, std^2) averaged over dimensions, [B]; NaN where std is 0, since there is no density."""
    scaled = (sample - mean).square().flatten(1).mean(1)
    std = torch.where(std > 0, std, torch.nan).to(scaled)
    return -scaled / (2 * std.square()) - std.log() - 0.5 * math.log(2 * math.pi)


def unnormalised_log_prob(sample: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """-|sample - mean|^2 averaged over dimensions, [B]: what the published trainers with CPS sampling use.

    Its ratio is the density's to the power 2 std^2, so clip ranges differ from those for `normal_log_prob`.
    """
    distance = (sample - mean).square().flatten(1).mean(1)
    return torch.where(std.to(distance) > 0, -distance, torch.nan)


LOG_PROBS = {"normal": normal_log_prob, "unnormalised": unnormalised_log_prob}


def slope(process, x_t: Tensor, t: Tensor, t_next: Tensor, sampler: str, level: float) -> Tensor:
    """d mean / d prediction of a step, [B]. The mean is affine in the prediction, so the slope is one number.

    For the SDE of a flow it is -h (1 + g^2 (1 - t) / (2 t)).
    """
    ones = torch.ones(len(t), 1, device=x_t.device, dtype=x_t.dtype)
    return process.moments(ones, torch.zeros_like(ones), t, t_next, sampler, level).mean[:, 0]


def sensitivity(process, x_t: Tensor, t: Tensor, t_next: Tensor, sampler: str, level: float) -> Tensor:
    """|d mean / d prediction| of a step, [B]; GRPO-Guard divides its loss by it."""
    return slope(process, x_t, t, t_next, sampler, level).abs()
