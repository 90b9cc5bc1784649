"""The steps after the window by a solver of second order, which needs fewer of them (MixGRPO-Flash).

    x' = (t'/t) x + (1 - t'/t) D,   D = x0 + (x0 - x0_before) dl / (2 dl_before),   dl = l(t') - l(t),  l = log((1-t)/t)

is DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095) for x_t = (1-t) x0 + t eps; x0 is the clean sample predicted at x.
With D = x0, as in a first step and in the one to data, it is Euler's step of the ODE.

Li et al. 2025 (arXiv 2507.21802). Differs from its code in: there are at least two times, since a single one would end
before data; where a time lies between two of the model's schedule it is read off the line between them.
"""

import torch
from torch import Tensor

from visalign.config import RolloutSettings
from visalign.processes.times import per_sample
from visalign.trainers.online.step_selection import window_places
from visalign.trainers.online.trunks import splits_before


class Multistep:
    """The solver of one batch, which remembers the clean samples predicted before."""

    def __init__(self, process):
        self.process = process
        self._before: tuple[Tensor, Tensor] | None = None

    def predicted(self, prediction: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The clean samples that a prediction at x means, which it remembers, [B, ...]."""
        x0 = self.process.x0_from(prediction, x, t)
        self._before = self.process.log_snr(t), x0
        return x0

    def step(self, prediction: Tensor, x: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """From t to t_next, both [B]."""
        before = self._before
        towards = x0 = self.predicted(prediction, x, t)
        if before is not None:
            now, then = self.process.log_snr(t), self.process.log_snr(t_next)
            share = torch.where(t_next > 0, (then - now) / (now - before[0]), 0) / 2
            towards = x0 + per_sample(share, x0) * (x0 - before[1])
        left = per_sample(t_next / t, x)
        return left * x + (1 - left) * towards


def tail_steps(remaining: int, ratio: float) -> int:
    """How many steps replace `remaining` ones: int(remaining ratio) times, at least two, which have a step between."""
    return max(int(remaining * ratio), 2) - 1 if remaining else 0


def tail_times(times: Tensor, end: int, ratio: float) -> Tensor:
    """Times from step `end` of a schedule [N + 1] to its last, evenly along it, [steps + 1]."""
    last = len(times) - 1
    places = torch.linspace(end, last, tail_steps(last - end, ratio) + 1, dtype=torch.float64)
    lower = places.floor().long().clamp(max=last - 1) if end < last else places.long()
    upper = (lower + 1).clamp(max=last)
    return torch.lerp(times[lower].double(), times[upper].double(), places - lower).to(times.dtype)


def steps_to_draw(settings: RolloutSettings) -> int:
    """Steps that a sample takes, with a tail in the mean over the places of the window, with branches in the mean over
    the samples of a tree."""
    if settings.branches:
        shared = splits_before(settings, torch.arange(settings.steps)).double().exp2().sum().item()
        return round(shared / settings.leaves)
    if settings.tail is None:
        return settings.steps
    ends = [place + settings.window.size for place in window_places(settings.window,
                                                                    settings.steps - settings.clean_steps)]
    return round(sum(end + tail_steps(settings.steps - end, settings.tail.ratio) for end in ends) / len(ends))
