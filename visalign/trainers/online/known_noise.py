"""Steps from own samples at known noise, which give the samples back (Direct-Align; objectives/backprop.py has how)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.objectives.backprop import DirectAlign
from visalign.processes import Diffusion, Flow
from visalign.sampling.seeds import rng_for
from visalign.trainers.online.rollout import Trajectory


@dataclass(frozen=True)
class KnownSteps:
    """The steps of B samples. x_t, noise: [B, ...]. t, t_next: [B]. swapped: bool [B], where the step leads to more
    noise."""

    x_t: Tensor
    noise: Tensor
    t: Tensor
    t_next: Tensor
    swapped: Tensor

    def recovered(self, process: Diffusion | Flow, prediction: Tensor) -> Tensor:
        """The clean latents that the steps by `prediction` [B, ...] give back."""
        after = process.along(process.direction(prediction, self.x_t, self.t), self.x_t, self.t, self.t_next)
        return process.without_noise(after, self.noise, self.t_next)


def known_steps(process: Diffusion | Flow, method: DirectAlign, samples: list[Trajectory], device: torch.device,
                draw: tuple[int, int, int]) -> KnownSteps:
    """draw: (seed, epoch, term); a time, a noise and a branch belong to them and to the sample's place in the epoch,
    not to the batch it is in."""
    seed, epoch, term = draw
    places = [sample.start.place for sample in samples]
    generators = [rng_for(seed, epoch, place, term, "known noise") for place in places]
    shares = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    x0 = torch.stack([sample.latents for sample in samples]).to(device)
    noise = torch.stack([torch.randn(x0.shape[1:], generator=generator) for generator in generators]).to(device)
    turn = {"denoise": 0, "inverse": 1}.get(method.branches)
    swapped = torch.tensor([(epoch + place + term if turn is None else turn) % 2 == 1 for place in places])
    t = process.times_at(method.cleanest + shares * (method.noisiest - method.cleanest))
    t_next = process.times_at(process.noise_fraction(t) + torch.where(swapped, method.distance, -method.distance))
    t, t_next, swapped = t.to(device), t_next.to(device), swapped.to(device)
    return KnownSteps(process.add_noise(x0, noise, t), noise, t, t_next, swapped)
