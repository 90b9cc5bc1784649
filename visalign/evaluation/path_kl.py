"""How far a fine-tuned generator has moved: the KL of its sampling paths from its frozen reference's."""

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from visalign.generators.base import Generator, Guidance
from visalign.processes.steps import draw
from visalign.sampling.seeds import rng_at


@torch.no_grad()
def path_kl(generator: Generator, prompts: list[str], seeds: int = 2, *, steps: int = 10, guidance_scale: float = 1.0,
            seed: int = 0, batch_size: int = 32) -> np.ndarray:
    """KL(policy || reference) in nats of whole sampling paths, mean over `seeds` of each prompt, [P].

    Both follow the process's SDE; a step's KL is |mean - reference mean|^2 / (2 std^2), summed over dimensions, and
    paths are the policy's own. The last step adds no noise and is left out. The generator must hold a policy and a
    reference (`make_trainable`).
    """
    sampler, level = generator.process.STOCHASTIC
    times = generator.schedule(steps)
    places = [(prompt, k) for prompt in prompts for k in range(seeds)]
    parts = []
    for start in tqdm(range(0, len(places), batch_size), desc="KL of sampling paths", unit="batch", leave=False):
        part = places[start:start + batch_size]
        sources = [rng_at(seed, start + i) for i in range(len(part))]
        conditioning = generator.encode_prompts([prompt for prompt, _ in part])
        guidance = None
        if guidance_scale != 1:
            guidance = Guidance(guidance_scale, generator.encode_negatives([prompt for prompt, _ in part]))
        x = _noise(generator, sources)
        total = torch.zeros(len(part), dtype=torch.float64)
        for j in range(steps - 1):
            where = (*(times[i].repeat(len(x)).to(x.device) for i in (j, j + 1)), sampler, level)
            moments = generator.process.moments(generator.predict(x, where[0], conditioning, guidance), x, *where)
            with generator.reference():
                frozen = generator.predict(x, where[0], conditioning, guidance)
            reference = generator.process.moments(frozen, x, *where)
            noisy = moments.std > 0
            distance = (moments.mean - reference.mean).double().square().flatten(1).sum(1)
            total += torch.where(noisy, distance / (2 * moments.std.double().square()), 0.0).cpu()
            x = draw(moments, _noise(generator, sources))
        parts.append(total)
    return torch.cat(parts).view(len(prompts), seeds).mean(1).numpy()


def _noise(generator: Generator, sources: list[torch.Generator]) -> Tensor:
    shape = generator.latent_shape()
    return torch.stack([torch.randn(shape, generator=source) for source in sources]).to(generator.device)
