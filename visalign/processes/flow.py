"""Rectified flow (SD3, FLUX, Wan): straight paths from data at t=0 to noise at t=1.

    x_t = (1 - t) x0 + t eps,   velocity v = eps - x0,   sampling integrates dx = v dt from t=1 to 0.

Liu et al. 2022 (arXiv 2209.03003); Esser et al. 2024 (arXiv 2403.03206). Times t are float [B] in [0, 1]; a network
made for diffusers receives 1000 t. Latents are [B, C, (F,) H, W].
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visalign.processes.steps import Moments
from visalign.processes.times import per_sample, sample_unit_times, shift_times


@dataclass(frozen=True)
class Flow:
    shift: float = 1.0
    kind = "flow"
    prediction_type = "velocity"
    SAMPLERS: ClassVar[tuple[str, ...]] = ("ode", "flow_sde", "dance_sde", "cps")
    STOCHASTIC: ClassVar[tuple[str, float]] = ("flow_sde", 0.7)  # the sampler and level that KLs are measured with
    ENDS_CLEAN: ClassVar[tuple[str, float]] = ("cps", 0.7)  # those whose noise is gone from finished samples

    def sample_times(self, n: int, sampling: str, generator: torch.Generator) -> Tensor:
        """Training times, float32 [n] in (0, 1)."""
        return sample_unit_times(n, sampling, self.shift, generator)

    def times_at(self, fractions: Tensor) -> Tensor:
        """The times at given fractions of the way to pure noise."""
        return fractions.clamp(1e-4, 1 - 1e-4)

    def noise_fraction(self, t: Tensor) -> Tensor:
        """Where t lies between data (0) and noise (1)."""
        return t

    def log_snr(self, t: Tensor) -> Tensor:
        """log of the squared ratio of data to noise in x_t, 2 log((1 - t) / t), [B]."""
        return 2 * t.float().logit().neg()

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is given for t: 1000 t."""
        return 1000 * t

    def time_of(self, network_time: Tensor) -> Tensor:
        return network_time / 1000

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        t = per_sample(t, x0)
        return (1 - t) * x0 + t * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def target_at(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The velocity that leads from x_t, however it was reached, straight to x0: (x_t - x0) / t, for t > 0.

        `target` where x_t is `add_noise` of x0. Its rounding errors grow as 1 / t.
        """
        return (x_t - x0) / per_sample(t, x_t)

    def x0_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t - per_sample(t, x_t) * prediction

    def noise_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t + (1 - per_sample(t, x_t)) * prediction

    def score_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t at x_t: -eps_hat / t."""
        return -self.noise_from(prediction, x_t, t) / per_sample(t, x_t)

    def direction(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """What stays the same along a step of the ODE, to less noise or to more: the velocity."""
        return prediction

    def along(self, direction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Where a direction leads from t to t_next (both [B], 0 is data), to less noise or to more."""
        return x_t + per_sample(t_next - t, x_t) * direction

    def without_noise(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The clean latents in x_t when its noise is known, (x_t - t eps) / (1 - t), for t < 1."""
        t = per_sample(t, x_t)
        return (x_t - t * noise) / (1 - t)

    def times_up_to(self, t: Tensor, steps: int) -> Tensor:
        """Each row's own equally long steps from data to t, [steps + 1, B]; its last row is t."""
        return torch.outer(torch.arange(steps + 1, device=t.device) / steps, t)

    def least_time(self, steps: int) -> float:
        """The earliest time to which that many steps lead of at least one unit of the network's time each."""
        return steps / 1000

    def noise_of_step(self, t: Tensor, t_next: Tensor) -> Tensor:
        """The std of x_t given x_{t_next} and x0 on straight paths, of t <= t_next < 1, [B]; 0 at data.

        (t / t') sqrt(t'^2 - t^2 ((1-t') / (1-t))^2): the formula of which DDIM's sigma is the case of diffusion.
        """
        return t / t_next * (t_next.square() - (t * (1 - t_next) / (1 - t)).square()).clamp(min=0).sqrt()

    def tilt(self, t: Tensor, most: float = 10.0) -> Tensor:
        """What to add to the prediction, per unit of the gradient of log p_t that is added: -t / (1 - t), [B].

        From v = -(x + t s) / (1 - t) (Liu et al. 2025, Flow-NRG); t / (1 - t) is held at `most` near pure noise.
        """
        return -(t / (1 - t).clamp(min=1e-8)).clamp(max=most)

    def schedule(self, steps: int) -> Tensor:
        """Sampling times from 1 to 0, float32 [steps + 1], shifted."""
        return shift_times(torch.linspace(1, 0, steps + 1), self.shift)

    def moments(self, prediction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor, sampler: str = "ode",
                level: float = 0.0) -> Moments:
        """The Gaussian of one step from t to t_next (both [B], t_next < t): see `SAMPLERS`.

        `ode` is Euler's step of the probability flow. `flow_sde` (Flow-GRPO, arXiv 2505.05470) and `dance_sde`
        (DanceGRPO, arXiv 2505.07818) follow the SDE with the same marginals,
            dx = [v + g^2/(2t) (x + (1-t) v)] dt + g dW,   g = level sqrt(t/(1-t))   or   g = level,
        where at t = 1 the 1-t inside g is that of the next time. `cps` (FlowCPS, arXiv 2509.05952) draws anew the part
        sin(level pi/2) of the next noise; with finitely or infinitely many steps it does not keep the marginals.
        """
        t, t_next = t.to(x_t.device), t_next.to(x_t.device)
        if sampler == "cps":
            return self._cps(prediction, x_t, t, t_next, level)
        h = t - t_next
        variance = _SQUARED_NOISE[sampler](t, t_next, level)  # g^2
        extra = variance / (2 * t)
        drift = prediction * (1 + per_sample(extra * (1 - t), x_t)) + per_sample(extra, x_t) * x_t
        return Moments(x_t - per_sample(h, x_t) * drift, (variance * h).sqrt())

    def _cps(self, prediction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor, level: float) -> Moments:
        fresh = t_next * math.sin(level * math.pi / 2)
        kept = (t_next.square() - fresh.square()).clamp(min=0).sqrt()
        x0, noise = self.x0_from(prediction, x_t, t), self.noise_from(prediction, x_t, t)
        return Moments(per_sample(1 - t_next, x_t) * x0 + per_sample(kept, x_t) * noise, fresh)

    def step(self, prediction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One Euler step of the probability-flow ODE from t to t_next (both [B])."""
        return self.moments(prediction, x_t, t, t_next).mean


def _flow_sde(t: Tensor, t_next: Tensor, level: float) -> Tensor:
    return level**2 * t / (1 - torch.where(t > 1 - 1e-5, t_next, t))


_SQUARED_NOISE = {"ode": lambda t, t_next, level: torch.zeros_like(t), "flow_sde": _flow_sde,
                  "dance_sde": lambda t, t_next, level: torch.full_like(t, level**2)}
