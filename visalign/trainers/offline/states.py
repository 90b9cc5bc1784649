"""Where the noised latents of an offline step come from. An objective names its `states`; the loop asks nothing else.

To add some: a subclass of `States` with `draw`, and its name in STATES. The settings it needs are the objective's.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator, Guidance
from visalign.generators.observe.rows import join
from visalign.media.fitting import Size
from visalign.objectives import Objective
from visalign.objectives.inpo import Inversion
from visalign.objectives.soar import SOAR
from visalign.processes.times import next_time, per_sample
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.inversion import inverted
from visalign.trainers.offline.encoded_pairs import PAIR_SIDES, PairBatch


@dataclass(frozen=True)
class Noised:
    """What one pass of the network sees of a batch of B pairs, and what it should predict there; on its device.

    sides: whose latents these are, ("chosen",), ("rejected",) or both one after the other: there are R = B len(sides)
    rows. x_t, target: [R, ...]. t: [R]. weight: of a row's error in that of its sample, [R] or one number for all.
    """

    x_t: Tensor
    t: Tensor
    target: Tensor
    sides: tuple[str, ...]
    weight: Tensor | float = 1.0

    def apart(self) -> list["Noised"]:
        """The same with a pass for each side."""
        count = len(self.sides)
        weights = self.weight.chunk(count) if isinstance(self.weight, Tensor) else [self.weight] * count
        parts = zip(self.x_t.chunk(count), self.t.chunk(count), self.target.chunk(count), self.sides, weights,
                    strict=True)
        return [Noised(x_t, t, target, (side,), weight) for x_t, t, target, side, weight in parts]


class States(ABC):
    """Makes a batch's noised latents, and may keep what belongs to the run: `extras`, objects with state_dict, are
    saved with every checkpoint and put back, so that a continued run ends in the same bits."""

    def __init__(self, generator: Generator, objective: Objective, cache: EncodingCache):
        self.generator, self.objective, self.cache = generator, objective, cache
        self.extras: dict[str, Any] = {}

    @abstractmethod
    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        """The passes of one step, from each pair's time t [B] and noise [B, ...].

        Further randomness comes from `rngs`, one a pair and its own at each place in the data order.
        """

    def reference(self) -> contextlib.AbstractContextManager:
        """Within: the generator is what the policy is compared with, without gradients."""
        return self.generator.reference()

    def after_step(self, step: int) -> None:  # noqa: B027  only states that keep something have to do something
        """Called once an optimiser step is done, before a checkpoint may be written."""


class NoisedStates(States):
    """`add_noise`, with the same time and noise for both samples of a pair."""

    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        sides = ("chosen", "rejected") if "rejected" in self.objective.needs else ("chosen",)
        device, process = self.generator.device, self.generator.process
        x0 = torch.cat([getattr(batch, side).to(device, non_blocking=True) for side in sides])
        noise, times = (torch.cat([each.to(device, non_blocking=True)] * len(sides)) for each in (noise, t))
        return [Noised(process.add_noise(x0, noise, times), times, process.target(x0, noise, times), sides)]


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
        self._empty: dict[str, Conditioning] = {}

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
        negative = self._negative(batch) if self.objective.guided else None
        # passes of their own, so that processes make equally many whatever the prompts' lengths
        guidance = Guidance(self.objective.guidance_scale, negative, apart=True)
        with generator.measuring():
            velocity = generator.predict(plain.x_t, plain.t, conditioning, guidance)
        return generator.process.moments(velocity, plain.x_t, plain.t, t1, "ode").mean

    def _negative(self, batch: PairBatch) -> Conditioning:
        """The empty prompt for each sample."""
        key = self.cache.prompt_key("")
        if key not in self._empty:
            self._empty[key] = _on_device(self.cache.conditioning([key]), self.generator)
        return self.generator.for_size(join([self._empty[key]] * len(batch.items)), batch.fits.get("chosen"))


STATES: dict[str, type[States]] = {"noised": NoisedStates, "inverted": InvertedStates,
                                 "corrected": CorrectedStates}


def towards_noise(x: Tensor, noise: Tensor, t: Tensor, later: Tensor) -> Tensor:
    """On the straight line from x at t [B] to the noise at time 1, where it is at the time `later` [B]."""
    share = per_sample((later - t) / (1 - t), x)
    return (1 - share) * x + share * noise


def _on_device(conditioning: Conditioning, generator: Generator) -> Conditioning:
    return {name: value.to(generator.device, non_blocking=True) for name, value in conditioning.items()}


def conditioning_of(generator: Generator, batch: PairBatch) -> dict[str, Conditioning]:
    """Of each side's samples, on the generator's device."""
    shared = _on_device(batch.conditioning, generator)
    return {side: generator.for_size(shared, batch.fits.get(side)) for side in PAIR_SIDES}


RowErrors = Callable[[Generator, Noised, dict[str, Conditioning]], Tensor]
"""The prediction error of each row of a pass, [R]."""


def row_errors(generator: Generator, state: Noised, conditioning: dict[str, Conditioning]) -> Tensor:
    """By one pass; conditioning: of each side's samples of the batch."""
    prediction = generator.predict(state.x_t, state.t, join([conditioning[side] for side in state.sides]))
    return state.weight * (prediction - state.target).square().flatten(1).mean(1)


def recomputed_errors(generator: Generator, state: Noised, conditioning: dict[str, Conditioning]) -> Tensor:
    """The same; a backward pass keeps nothing of it, and computes this pass anew when its turn comes.

    The wrapper that sums gradients over processes takes part in the first pass alone.
    """
    return checkpoint(row_errors, generator, state, conditioning, use_reentrant=False,
                      context_fn=lambda: (contextlib.nullcontext(), _again(generator, generator.shape.size)))


@contextlib.contextmanager
def _again(generator: Generator, size: Size) -> Iterator[None]:
    """For a pass in the backward pass, which is outside of what the loop holds."""
    with generator.working_at(size), generator.unwrapped():
        yield


def sample_errors(generator: Generator, states: list[Noised], conditioning: dict[str, Conditioning],
                  errors_of: RowErrors = row_errors) -> dict[str, Tensor]:
    """The prediction error of each side's samples, summed over its states by their weights: {side: [B]}.

    conditioning: of each side's samples of the batch, on the generator's device.
    """
    errors: dict[str, Tensor] = {}
    for state in states:
        for side, part in zip(state.sides, errors_of(generator, state, conditioning).chunk(len(state.sides)),
                              strict=True):
            errors[side] = errors[side] + part if side in errors else part
    return errors
