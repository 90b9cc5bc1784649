"""Where the noised latents of an offline step come from. An objective names its `states`; the loop asks nothing else.

To add some: a subclass of `States` with `draw`, and its name in STATES. The settings it needs are the objective's.
"""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.base import Generator, Guidance
from visalign.generators.observe.rows import join
from visalign.objectives.inpo import Inversion
from visalign.objectives.soar import SOAR
from visalign.processes.times import next_time, per_sample
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.inversion import inverted
from visalign.trainers.offline.encoded_pairs import PAIR_SIDES, PairBatch
from visalign.trainers.offline.noised import Noised, NoisedStates, States, conditioning_of
from visalign.trainers.offline.own_reference import OwnReferenceStates


class InvertedStates(States):
    """Latents that the policy itself would pass through on its way to the samples: each is inverted to its pair's time.

    The two samples of a pair share nothing but the time, which is raised to the least that the steps lead to. The
    objective's settings: objectives/inpo.py.
    """

    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        generator, process, given = self.generator, self.generator.process, cast(Inversion, self.objective)
        conditioning = conditioning_of(generator, batch)
        x0 = torch.cat([getattr(batch, side).to(generator.device, non_blocking=True) for side in PAIR_SIDES])
        times = t.to(generator.device).clamp(min=process.least_time(given.inversion_steps)).repeat(len(PAIR_SIDES))

        def fresh() -> Tensor:
            drawn = [torch.randn(noise.shape[1:], generator=rng) for _ in PAIR_SIDES for rng in rngs]
            return given.inversion_noise * torch.stack(drawn).to(generator.device)

        x_t = inverted(generator, x0, times, join([conditioning[side] for side in PAIR_SIDES]), given.inversion_steps,
                       fresh if given.inversion_noise else None, given.renoise)
        return [Noised(x_t, times, process.target_at(x0, x_t, times), PAIR_SIDES)]


class CorrectedStates(NoisedStates):
    """SOAR's (objectives/soar.py): beside the noised sample, points on the way back to its noise from where one guided
    step of the current model leads. Raises UserError for a model without guidance where a scale is set."""

    objective: SOAR

    def __init__(self, generator: Generator, objective: SOAR, cache: EncodingCache):
        super().__init__(generator, objective, cache)
        if objective.guided and generator.conventions.guidance is None:
            raise UserError(f"objective.guidance_scale {objective.guidance_scale:g}: {generator.pipeline_class} is "
                            "without guidance here; set objective.guidance_scale=1")

    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        [plain], objective, device = super().draw(batch, t, noise, rngs), self.objective, self.generator.device
        if not objective.weight:
            return [plain]
        t1 = next_time(self.generator.schedule(objective.rollout_steps), t).to(device)
        shares = torch.stack([torch.rand(objective.points, generator=rng) for rng in rngs], 1).to(device)
        x0, noise, reached = batch.chosen.to(device), noise.to(device), self._reached(plain, t1, batch)
        total = 1 + objective.points * objective.weight
        states = [replace(plain, weight=1 / total)]
        for share in shares:
            times = (t1 + share * (1 - t1)).clamp(min=1 / objective.rollout_steps)
            x_t = towards_noise(reached, noise, t1, times)
            target = self.generator.process.target_at(x0, x_t, times)
            states.append(Noised(x_t, times, target, plain.sides, objective.weight / total))
        return states

    @torch.no_grad()
    def _reached(self, plain: Noised, t1: Tensor, batch: PairBatch) -> Tensor:
        """Where the model's own step to t1 [B] leads, as it is sampled: without dropout."""
        generator = self.generator
        conditioning = conditioning_of(generator, batch)["chosen"]
        negative = self.negative(len(batch.items), batch.fits.get("chosen")) if self.objective.guided else None
        # passes of their own, so that processes make equally many whatever the prompts' lengths
        guidance = Guidance(self.objective.guidance_scale, negative, apart=True)
        with generator.measuring():
            velocity = generator.predict(plain.x_t, plain.t, conditioning, guidance)
        return generator.process.moments(velocity, plain.x_t, plain.t, t1, "ode").mean


def towards_noise(x: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
    """On the straight line from x at t [B] to the noise at time 1, where it is at the time `later` [B]."""
    share = per_sample((later - t) / (1 - t), x)
    return (1 - share) * x + share * noise


STATES: dict[str, type[States]] = {"noised": NoisedStates, "inverted": InvertedStates, "corrected": CorrectedStates,
                                   "own_reference": OwnReferenceStates}
