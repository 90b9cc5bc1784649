"""Samples of a prompt that grow as trees: they share their first sampling steps, and part before some of them.

Comparisons between leaves of one tree say something of what their common part led to, so few labels may go further
(tree-structured preferences, Qiu et al. 2024, arXiv 2402.10184, for answers with a common beginning). Of images, what
is decided in noisy steps is layout: leaves that part early differ in it, those that part late in texture.

The trunk follows the process's deterministic sampler from the noise of its first leaf. From the first branch step on
each part draws noise of its own in every step, by the stochastic sampler that leaves none of it in the samples (FlowCPS
for flows, ancestral DDIM for diffusion). At a branch step 0 the parts begin from noise of their own: ordinary samples
of that sampler. A tree passes the network less often than its leaves would alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from visalign.data.leaves import MOST_BRANCHES
from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.generators.observe.sampling import OnStep
from visalign.media.samples import Media
from visalign.processes.steps import draw
from visalign.sampling.drawn_rows import DrawnRows, leaf_owners
from visalign.sampling.seeds import rng_for


@dataclass(frozen=True)
class Branching:
    """steps: the sampling steps, counted from 0, before each of which every part of a tree divides in two, rising."""

    steps: tuple[int, ...]

    def __post_init__(self):
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0:
            raise UserError(f"{self}: the steps at which samples part must rise, from 0 on, such as 2,6")
        if len(self.steps) > MOST_BRANCHES:
            raise UserError(f"{self}: names {len(self.steps)} steps, and a tree divides {MOST_BRANCHES} times at most")

    def __str__(self) -> str:
        return f"branches {','.join(map(str, self.steps))}"

    @property
    def leaves(self) -> int:
        """Samples of one tree."""
        return 2**len(self.steps)

    def check(self, steps: int, samples: int) -> None:
        """Raise UserError unless so many sampling steps have all branch steps, and so many samples are whole trees."""
        if self.steps[-1] > steps - 2:
            raise UserError(f"{self}: step {self.steps[-1]} is too late for --steps {steps}; samples part before one "
                            f"of the steps 0 to {steps - 2}, since the last adds no noise")
        if samples % self.leaves:
            raise UserError(f"{self}: {samples} samples a prompt are no whole number of trees of {self.leaves} leaves; "
                            f"set --samples-per-prompt to a multiple of {self.leaves}")

    def check_noise(self, generator: Generator, steps: int) -> None:
        """Raise UserError where parts would stay equal: a model without a stochastic sampler, or a step without noise.
        """
        process, times = generator.process, generator.schedule(steps)
        stochastic = getattr(process, "ENDS_CLEAN", None)
        if stochastic is None:
            raise UserError(f"{self}: {generator.pipeline_class} has no stochastic sampler (SDE), by which samples "
                            "with a common beginning could part")
        nothing = torch.zeros(steps, 1)
        std = process.moments(nothing, nothing, times[:-1], times[1:], *stochastic).std
        silent = next((step for step in self.steps if not std[step] > 0), None)
        if silent is not None:
            raise UserError(f"{self}: with this model's times step {silent} adds no noise, so samples would not part; "
                            "name another")


class Branched:
    """A generator whose `sample` grows trees; everything else is the generator's own."""

    def __init__(self, generator: Generator, branching: Branching):
        self.generator, self.branching = generator, branching

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance_scale: float, batch_size: int = 32,
               negative_prompt: str | None = None, on_step: OnStep | None = None) -> Iterator[list[Media]]:
        """As the generator's; each tree's leaves stand next to each other. Yields whole trees at a time."""
        leaves = self.branching.leaves
        self.branching.check_noise(self.generator, steps)
        together = max(leaves, batch_size - batch_size % leaves)
        for start in range(0, len(prompts), together):
            batch, own = prompts[start:start + together], seeds[start:start + together]
            guidance = Guidance(guidance_scale, self.generator.encode_negatives(batch, negative_prompt))
            for number, x in enumerate(self.path(batch, own, steps, guidance)):  # noqa: B007  the last ones are clean
                if on_step and number:
                    on_step(number, steps)
            yield self.generator.decode(self.generator.replay.finished(x, self.generator.encode_prompts(batch)))

    @torch.no_grad()
    def path(self, prompts: list[str], seeds: list[int], steps: int, guidance: Guidance) -> Iterator[Tensor]:
        """The latents [B, ...] of all leaves before each step and after the last."""
        generator, process, branches = self.generator, self.generator.process, self.branching.steps
        leaves = self.branching.leaves
        if len(prompts) % leaves or any(prompts[i] != prompts[i - i % leaves] for i in range(len(prompts))):
            raise ValueError(f"{len(prompts)} prompts are not those of whole trees of {leaves} leaves")
        shape, times = generator.latent_shape(), generator.schedule(steps)
        sources = [rng_for("branch", seed) for seed in seeds]
        texts: Conditioning = generator.encode_prompts(prompts)
        noise = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        rows = DrawnRows(leaf_owners(len(seeds), branches, 0))
        x = rows.only(noise.to(generator.device))
        for j, (now, then) in enumerate(pairwise(times)):
            before, rows = rows, DrawnRows(leaf_owners(len(seeds), branches, j))
            x = rows.only(before.whole(x))
            yield rows.whole(x)
            t, t_next = (each.repeat(len(x)).to(x.device) for each in (now, then))
            prediction = generator.predict(x, t, rows.texts(texts), rows.guidance(guidance))
            if j < branches[0]:
                x = process.moments(prediction, x, t, t_next).mean
                continue
            fresh = torch.stack([torch.randn(shape, generator=sources[i]) for i in rows.drawn])
            x = draw(process.moments(prediction, x, t, t_next, *process.ENDS_CLEAN), fresh.to(x.device))
        yield rows.whole(x)
