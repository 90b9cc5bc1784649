"""From a sample back to the noisier latents from which the model would have made it: DDIM inversion, and the ODE's.

Diffusion: Song et al. 2020 (arXiv 2010.02502), section 4.3. Flow: Euler's steps from data towards noise. ReNoise:
Garibi et al. 2024 (arXiv 2403.14602).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from visalign.generators.base import Conditioning, Generator
from visalign.processes.times import per_sample


@torch.no_grad()
def inverted(generator: Generator, x0: Tensor, t: Tensor, conditioning: Conditioning, steps: int,
             fresh: Callable[[], Tensor] | None = None, renoise: bool = False) -> Tensor:
    """x_t [B, ...] of samples x0 [B, ...], each at its own time t [B], by equally long steps of the policy without
    guidance and without dropout; float32.

    fresh: draws noise [B, ...], of which each step adds its own noise's worth. renoise: the last step's direction is
    predicted once more, where it led.
    """
    process, x = generator.process, x0.float()
    times = process.times_up_to(t, steps)

    def direction(x: Tensor, t: Tensor) -> Tensor:
        seen = t.clamp(min=0)  # the network knows no cleaner time
        return process.direction(generator.predict(x, seen, conditioning), x, seen)

    with generator.measuring():
        for step, (now, then) in enumerate(zip(times[:-1], times[1:], strict=True), start=1):
            reached = process.along(direction(x, now), x, now, then)
            if renoise and step == steps:
                reached = process.along(direction(reached, then), x, now, then)
            x = reached if fresh is None else reached + per_sample(process.noise_of_step(now, then), x) * fresh()
    return x
