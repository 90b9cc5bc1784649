"""Rectified flow (SD3, FLUX, Wan): straight paths from data at t=0 to noise at t=1.

    x_t = (1 - t) x0 + t eps,   velocity v = eps - x0,   sampling integrates dx = v dt from t=1 to 0.

Liu et al. 2022 (arXiv 2209.03003); Esser et al. 2024 (arXiv 2403.03206). Times t are float [B] in [0, 1]; a network
made for diffusers receives 1000 t. Latents are [B, C, (F,) H, W].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.processes.times import per_sample, sample_unit_times, shift_times


@dataclass(frozen=True)
class Flow:
    shift: float = 1.0
    kind = "flow"
    prediction_type = "velocity"

    def sample_times(self, n: int, sampling: str, generator: torch.Generator) -> Tensor:
        """Training times, float32 [n] in (0, 1)."""
        return sample_unit_times(n, sampling, self.shift, generator)

    def times_at(self, fractions: Tensor) -> Tensor:
        """The times at given fractions of the way to pure noise."""
        return fractions.clamp(1e-4, 1 - 1e-4)

    def noise_fraction(self, t: Tensor) -> Tensor:
        """Where t lies between data (0) and noise (1)."""
        return t

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is given for t: 1000 t."""
        return 1000 * t

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        t = per_sample(t, x0)
        return (1 - t) * x0 + t * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def x0_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t - per_sample(t, x_t) * prediction

    def noise_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return x_t + (1 - per_sample(t, x_t)) * prediction

    def score_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Gradient of log p_t at x_t: -eps_hat / t."""
        return -self.noise_from(prediction, x_t, t) / per_sample(t, x_t)

    def schedule(self, steps: int) -> Tensor:
        """Sampling times from 1 to 0, float32 [steps + 1], shifted."""
        return shift_times(torch.linspace(1, 0, steps + 1), self.shift)

    def step(self, prediction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One Euler step of the probability-flow ODE from t to t_next (both [B])."""
        return x_t + per_sample(t_next - t, x_t) * prediction
