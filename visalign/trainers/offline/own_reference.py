"""Losers that a run makes itself: samples of its earlier selves, and those selves as the reference.

A step has one earlier self, drawn over those there are by (seed, step), the same on every process. A sample is made
once for each prompt and self, when they first meet, with noise of (seed, self, prompt). A micro-batch makes all that it
is the first to need at once; since neighbours in a batch change last digits, a run that is continued makes the same
ones together again, and ends in the same bits without samples in its checkpoints.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from visalign.config import OwnSettings, RolloutSettings
from visalign.errors import UserError
from visalign.generators.base import Guidance
from visalign.objectives.seppo import SePPO
from visalign.parallel.sharing import doing
from visalign.sampling.seeds import rng_for, stable_seed
from visalign.trainers.offline.encoded_pairs import EncodedPair, PairBatch
from visalign.trainers.offline.noised import Asked, Noised, NoisedStates, Training, put_on_device
from visalign.trainers.online.rollout import Sampler, Start
from visalign.trainers.snapshots import Snapshot, Snapshots, one_of

SLOW = 5.0
"""Seconds of sampling after which a progress bar shows."""


class FirstVisits:
    """Which micro-batch of this process was the first to need a prompt's sample of an earlier self, and what else it
    needed first. Found again from the data's order, so that nothing of it is kept in checkpoints."""

    def __init__(self, training: Training):
        self.training, self.own = training, training.config.data.selves
        self._first: dict[tuple[int, Asked], int] = {}
        self._new: dict[int, list[Asked]] = {}
        self._next = 0

    def self_of(self, number: int) -> int:
        """After how many steps the earlier self was taken that a micro-batch is compared with."""
        step = number // self.training.config.train.gradient_accumulation
        return one_of(self.own.numbers(step), rng_for("earlier self", self.training.config.train.seed, step))

    def look(self, number: int, selves: Sequence[int]) -> None:
        """Take in all micro-batches up to this one, as far as they are compared with `selves`, all there are now."""
        earliest = min(selves) * self.training.config.train.gradient_accumulation
        for place in range(max(self._next, earliest), number + 1):
            taken = self.self_of(place)
            if taken in selves:
                asked = dict.fromkeys(self.training.asked(place))
                self._new[place] = [each for each in asked if (taken, each) not in self._first]
                self._first |= {(taken, each): place for each in self._new[place]}
        self._next = max(self._next, number + 1)

    def forget_all_but(self, selves: Sequence[int]) -> None:
        self._first = {key: place for key, place in self._first.items() if key[0] in selves}
        kept = set(self._first.values())
        self._new = {place: new for place, new in self._new.items() if place in kept}

    def together_with(self, taken: int, asked: Asked) -> list[Asked]:
        """What is sampled together with this, itself included."""
        return self._new[self._first[taken, asked]]


class OwnReferenceStates(NoisedStates):
    """SePPO's (objectives/seppo.py): good samples, and as the rejected ones what an earlier self makes of the prompts.

    Held-out samples are compared with the frozen reference, the model as training started, and with its samples, so
    that what is measured means the same at every step. Latents of samples are kept in host memory as long as their self
    is. Raises UserError for a model without guidance where a scale is set.
    """

    objective: SePPO

    def __init__(self, training: Training):
        super().__init__(training.generator, training.objective, training.cache)
        self.training, self.own = training, training.config.data.selves
        if self.own.guidance_scale != 1 and self.generator.conventions.guidance is None \
                and not self.generator.conventions.embedded:
            raise UserError(f"data.own.guidance_scale {self.own.guidance_scale:g}: {self.generator.pipeline_class} is "
                            "without guidance here; set data.own.guidance_scale=1")
        self.selves = self.extras["selves"] = Snapshots(training.parameters, self.own.keep)
        self.selves.take(0)
        self.visits = FirstVisits(training)
        self.samples: dict[tuple[int | None, Asked], Tensor] = {}
        self.taken: int | None = None
        self.asked: list[Asked] = []

    @classmethod
    def of(cls, trainer: Training) -> "OwnReferenceStates":
        return cls(trainer)

    def before(self, number: int | None) -> None:
        self.taken = None
        if number is None:
            return
        self.visits.look(number, list(self.selves.taken))
        self.taken, self.asked = self.visits.self_of(number), self.training.asked(number)

    @property
    def snapshot(self) -> Snapshot | None:
        """The earlier self at work; None while held-out samples are measured."""
        return None if self.taken is None else self.selves.taken[self.taken]

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        if self.snapshot is None:
            with self.generator.reference():
                yield
            return
        with torch.no_grad(), self.generator.measuring(), self.snapshot.active():
            yield

    def after_step(self, step: int) -> None:
        if step % self.own.every:
            return
        self.selves.take(step)
        self.visits.forget_all_but(list(self.selves.taken))
        self.samples = {key: value for key, value in self.samples.items() if key[0] in (None, *self.selves.taken)}

    def draw(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> list[Noised]:
        asked = self.asked if self.taken is not None else asked_by(batch.items)
        fits = {side: each for side, each in batch.fits.items() if side == "chosen"}
        states = super().draw(replace(batch, rejected=self.rejected(asked), fits=fits), t, noise, rngs)
        return states + [self._anchor(batch, rngs) for _ in range(self.objective.anchors - 1)]

    def _anchor(self, batch: PairBatch, rngs: list[torch.Generator]) -> Noised:
        """The good samples once more, at times and noises of their own."""
        device, process = self.generator.device, self.generator.process
        x0, t = batch.chosen.to(device), torch.cat([self.training.draw_time(rng) for rng in rngs]).to(device)
        noise = torch.stack([torch.randn(batch.chosen.shape[1:], generator=rng) for rng in rngs]).to(device)
        return Noised(process.add_noise(x0, noise, t), t, process.target(x0, noise, t), ("anchor",), learnt=False)

    def rejected(self, asked: list[Asked]) -> Tensor:
        """The samples of the earlier self at work, [B, C, (F,) H, W] on the CPU; those are made that are not there."""
        for each in asked:
            if (self.taken, each) not in self.samples:
                new = self.visits.together_with(self.taken, each) if self.taken is not None else [
                    other for other in dict.fromkeys(asked) if (None, other) not in self.samples]
                made = zip(new, self._sampled(new), strict=True)
                self.samples |= {(self.taken, other): latents for other, latents in made}
        return torch.stack([self.samples[self.taken, each] for each in asked])

    def _sampled(self, asked: list[Asked]) -> list[Tensor]:
        """Of prompts of one size, one each."""
        generator, own = self.generator, self.own
        with self.reference(), generator.working_at(asked[0].size), \
                tqdm(total=own.steps, desc="sampling an earlier self", unit="step", leave=False, delay=SLOW,
                     disable=not self.training.accelerator.is_main_process) as progress:
            starts = [Start(place, each.prompt_key, each.prompt_key, self._seed(each), 0)
                      for place, each in enumerate(asked)]
            texts = self.cache.conditioning([each.prompt_key for each in asked])
            conditioning = generator.for_size(put_on_device(texts, generator))
            guided = own.guidance_scale != 1 and generator.conventions.guidance is not None
            guidance = Guidance(own.guidance_scale, self.negative(len(asked)) if guided else None)

            def after_step() -> None:
                progress.update()
                doing()

            drawn = Sampler(generator, _settings(own), keep_mean=False).draw(
                starts, conditioning, guidance, frozenset(), torch.zeros(len(asked), 0, dtype=torch.int64), after_step)
        return [sample.latents for sample in drawn]

    def _seed(self, asked: Asked) -> int:
        """Of a sample's noise."""
        self_ = "start" if self.taken is None else self.taken
        return stable_seed("own sample", self.training.config.train.seed, self_, asked.prompt_key)


def asked_by(items: list[EncodedPair]) -> list[Asked]:
    """What samples are asked for that are not trained on."""
    return [Asked(item.prompt_key, item.size) for item in items]


def _settings(own: OwnSettings) -> RolloutSettings:
    """Of a sampler that adds no noise."""
    return RolloutSettings(steps=own.steps, guidance_scale=own.guidance_scale)
