"""Variance-preserving diffusion (SD1.5, SDXL) with epsilon or v prediction.

    x_t = alpha_t x0 + sigma_t eps,   alpha_t^2 + sigma_t^2 = 1,   alpha_t = sqrt(alphas_cumprod[t]),
    v = alpha_t eps - sigma_t x0.

Ho et al. 2020 (arXiv 2006.11239); Salimans & Ho 2022 (arXiv 2202.00512); DDIM: Song et al. 2020 (arXiv 2010.02502).
Times t are integers [B] in 0..999; in `moments`, t_next = -1 means clean data. Latents are [B, C, H, W].
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from visalign.processes.steps import Moments
from visalign.processes.times import per_sample, sample_unit_times


@dataclass(frozen=True)
class Diffusion:
    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"
    shift: float = 1.0
    kind = "diffusion"
    SAMPLERS: ClassVar[tuple[str, ...]] = ("ode", "ddim")
    STOCHASTIC: ClassVar[tuple[str, float]] = ("ddim", 1.0)  # the sampler and level that KLs are measured with
    ENDS_CLEAN: ClassVar[tuple[str, float]] = ("ddim", 1.0)  # those whose noise is gone from finished samples

    def __post_init__(self):
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction type '{self.prediction_type}' is not one of epsilon, v_prediction")

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def _alpha_sigma(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._alpha_bar(t)
        return per_sample(alpha_bar.sqrt(), like), per_sample((1 - alpha_bar).sqrt(), like)

    def _alpha_bar(self, t: Tensor) -> Tensor:
        """alphas_cumprod at t [B], and 1 where t is -1 (clean data)."""
        table = self.alphas_cumprod.to(t.device)
        return torch.where(t < 0, torch.ones_like(table[:1]), table[t.clamp(min=0).long()])

    def sample_times(self, n: int, sampling: str, generator: torch.Generator) -> Tensor:
        """Training times, int64 [n] in 0..len-1."""
        return self.times_at(sample_unit_times(n, sampling, self.shift, generator))

    def times_at(self, fractions: Tensor) -> Tensor:
        return (fractions * len(self)).long().clamp(0, len(self) - 1)

    def noise_fraction(self, t: Tensor) -> Tensor:
        return t.float() / len(self)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha_t^2 / sigma_t^2), [B]; -inf where nothing of the data is left (zero terminal SNR)."""
        return self._alpha_bar(t).float().logit()

    def network_time(self, t: Tensor) -> Tensor:
        return t

    def time_of(self, network_time: Tensor) -> Tensor:
        """The nearest of our times to what a network is given."""
        return network_time.round().long()

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(t, x0)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        alpha, sigma = self._alpha_sigma(t, x0)
        return alpha * noise - sigma * x0

    def target_at(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction that leads from x_t, however it was reached, straight to x0: eps = (x_t - alpha x0) / sigma,
        or v of that eps.

        `target` where x_t is `add_noise` of x0.
        """
        alpha, sigma = self._alpha_sigma(t, x_t)
        return self.target(x0, (x_t - alpha * x0) / sigma, t)

    def x0_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._alpha_sigma(t, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - sigma * prediction) / alpha
        return alpha * x_t - sigma * prediction

    def noise_from(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return prediction
        alpha, sigma = self._alpha_sigma(t, x_t)
        return alpha * prediction + sigma * x_t

    def direction(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """What stays the same along a DDIM step, to less noise or to more: the noise."""
        return self.noise_from(prediction, x_t, t)

    def along(self, direction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """Where a direction leads from t to t_next (both [B], -1 is clean data), to less noise or to more."""
        return self.add_noise(self.without_noise(x_t, direction, t), direction, t_next)

    def without_noise(self, x_t: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The clean latents in x_t when its noise is known, (x_t - sigma eps) / alpha, where any signal is left."""
        alpha, sigma = self._alpha_sigma(t, x_t)
        return (x_t - sigma * noise) / alpha

    def times_up_to(self, t: Tensor, steps: int) -> Tensor:
        """Each row's own equally long steps from clean data to t, rounded to whole times: int64 [steps + 1, B].

        Its last row is t; times of t < steps - 1 repeat themselves.
        """
        shares = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=t.device)
        return torch.outer(shares, t.double() + 1).round().long() - 1

    def least_time(self, steps: int) -> int:
        """The earliest time to which that many steps lead which the network can tell apart."""
        return min(steps, len(self)) - 1

    def noise_of_step(self, t: Tensor, t_next: Tensor) -> Tensor:
        """DDIM's sigma (eq. 16, eta 1) of the step down from t_next to t (both [B], t <= t_next), [B]; 0 at data."""
        now, then = self._alpha_bar(t), self._alpha_bar(t_next)
        return ((1 - now) / (1 - then).clamp(min=1e-12)).sqrt() * (1 - then / now).clamp(min=0).sqrt()

    def tilt(self, t: Tensor, most: float = 10.0) -> Tensor:
        """What to add to the prediction, per unit of the gradient of log p_t that is added, [B].

        eps = -sigma s gives -sigma for epsilon prediction (Dhariwal and Nichol 2021, arXiv 2105.05233); v = alpha eps -
        sigma x0 then gives -sigma / alpha for v, held at `most` where hardly any signal is left.
        """
        alpha_bar = self._alpha_bar(t)
        sigma = (1 - alpha_bar).sqrt()
        if self.prediction_type == "epsilon":
            return -sigma
        return -(sigma / alpha_bar.sqrt().clamp(min=1e-8)).clamp(max=most)

    def schedule(self, steps: int) -> Tensor:
        """Sampling times from the noisiest to -1 (clean), int64 [steps + 1], evenly spaced."""
        return torch.linspace(len(self) - 1, -1, steps + 1).round().long()

    def moments(self, prediction: Tensor, x_t: Tensor, t: Tensor, t_next: Tensor, sampler: str = "ode",
                level: float = 0.0) -> Moments:
        """The Gaussian of one DDIM step (eq. 12, 16): `ode` is deterministic, `ddim` adds noise with eta = level.

        level 1 is ancestral DDPM. The step to clean data has std 0. x0 is not clipped (latents).
        """
        eta = level if sampler == "ddim" else 0.0
        now, then = self._alpha_bar(t.to(x_t.device)), self._alpha_bar(t_next.to(x_t.device))
        std = eta * ((1 - then) / (1 - now)).sqrt() * (1 - now / then).clamp(min=0).sqrt()
        x0, eps = self.x0_from(prediction, x_t, t), self.noise_from(prediction, x_t, t)
        direction = (1 - then - std**2).clamp(min=0).sqrt()
        return Moments(per_sample(then.sqrt(), x_t) * x0 + per_sample(direction, x_t) * eps, std)
