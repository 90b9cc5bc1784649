"""What an offline step sees: noised latents, what makes them, and the errors that are taken at them."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from visalign.config import OfflineConfig
from visalign.generators.base import Conditioning, Generator
from visalign.generators.observe.rows import join
from visalign.media.fitting import Size
from visalign.objectives import Objective
from visalign.sampling.encoding_cache import EncodingCache
from visalign.trainers.offline.encoded_pairs import PAIR_SIDES, PairBatch


@dataclass(frozen=True)
class Noised:
    """What one pass of the network sees of a batch of B pairs, and what it should predict there; on its device.

    sides: whose latents these are, ("chosen",), ("rejected",) or both one after the other: there are R = B len(sides)
    rows. x_t, target: [R, ...]. t: [R]. weight: of a row's error in that of its sample, [R] or one number for all.
    learnt: whether gradients flow through it. The side "anchor" is the chosen sample where it is looked at only.
    """

    x_t: Tensor
    t: Tensor
    target: Tensor
    sides: tuple[str, ...]
    weight: Tensor | float = 1.0
    learnt: bool = True

    def apart(self) -> list["Noised"]:
        """The same with a pass for each side."""
        count = len(self.sides)
        weights = self.weight.chunk(count) if isinstance(self.weight, Tensor) else [self.weight] * count
        parts = zip(self.x_t.chunk(count), self.t.chunk(count), self.target.chunk(count), self.sides, weights,
                    strict=True)
        return [Noised(x_t, t, target, (side,), weight, self.learnt) for x_t, t, target, side, weight in parts]


class Training(Protocol):
    """What states may know of a run. parameters: those that are trained."""

    generator: Generator
    objective: Any
    cache: EncodingCache
    config: OfflineConfig
    accelerator: Accelerator
    parameters: list[nn.Parameter]

    def asked(self, number: int) -> list["Asked"]:
        """What is learnt in a micro-batch of this process, by its number."""
        ...

    def draw_time(self, rng: torch.Generator) -> Tensor:
        """A random time of training, [1]."""
        ...


class Asked(NamedTuple):
    """The key of a prompt as it is learnt, without caption dropout, and the size of its images (None: the model's)."""

    prompt_key: str
    size: Size | None


class States(ABC):
    """Makes a batch's noised latents, and may keep what belongs to the run: `extras`, objects with state_dict, are
    saved with every checkpoint and put back, so that a continued run ends in the same bits."""

    def __init__(self, generator: Generator, objective: Objective, cache: EncodingCache):
        self.generator, self.objective, self.cache = generator, objective, cache
        self.extras: dict[str, Any] = {}
        self._empty: dict[str, Conditioning] = {}

    @classmethod
    def of(cls, trainer: "Training") -> "States":
        """Those of a run."""
        return cls(trainer.generator, trainer.objective, trainer.cache)

    def before(self, number: int | None) -> None:  # noqa: B027  only states that keep something have to do something
        """Called before a micro-batch is learnt, with its number, and with None before held-out pairs are measured."""

    @abstractmethod
    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        """The passes of one step, from each pair's time t [B] and noise [B, ...]; those of `noised` states may be [2B]
        and [2B, ...], each sample's own.

        Further randomness comes from `rngs`, one a pair and its own at each place in the data order.
        """

    def reference(self) -> contextlib.AbstractContextManager:
        """Within: the generator is what the policy is compared with, without gradients."""
        return self.generator.reference()

    def after_step(self, step: int) -> None:  # noqa: B027  only states that keep something have to do something
        """Called once an optimiser step is done, before a checkpoint may be written."""

    def negative(self, count: int, fits: Tensor | None = None) -> Conditioning:
        """The empty prompt for `count` samples of the size at work; fits: of their images."""
        key = self.cache.prompt_key("")
        if key not in self._empty:
            self._empty[key] = put_on_device(self.cache.conditioning([key]), self.generator)
        return self.generator.for_size(join([self._empty[key]] * count), fits)


class NoisedStates(States):
    """`add_noise`, with the same time and noise for both samples of a pair, or with each one's own."""

    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        sides = self.objective.sides
        device, process = self.generator.device, self.generator.process
        x0 = torch.cat([getattr(batch, side).to(device, non_blocking=True) for side in sides])
        noise, times = (torch.cat([each.to(device, non_blocking=True)] * (len(x0) // len(each))) for each in (noise, t))
        return [Noised(process.add_noise(x0, noise, times), times, process.target(x0, noise, times), sides)]


def put_on_device(conditioning: Conditioning, generator: Generator) -> Conditioning:
    return {name: value.to(generator.device, non_blocking=True) for name, value in conditioning.items()}


def conditioning_of(generator: Generator, batch: PairBatch) -> dict[str, Conditioning]:
    """Of each side's samples, on the generator's device."""
    each = [put_on_device(conditioning, generator) for conditioning in batch.conditionings]
    found = {side: generator.for_size(conditioning, batch.fits.get(side))
             for side, conditioning in zip(PAIR_SIDES, (each[0], each[-1]), strict=True)}
    return found | {"anchor": found["chosen"]}


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
        with contextlib.nullcontext() if state.learnt else torch.no_grad():
            rows = (errors_of if state.learnt else row_errors)(generator, state, conditioning)
        for side, part in zip(state.sides, rows.chunk(len(state.sides)), strict=True):
            errors[side] = errors[side] + part if side in errors else part
    return errors
