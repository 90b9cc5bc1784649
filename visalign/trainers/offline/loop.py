"""The offline loop: preference pairs to a fine-tuned generator, for every family and every objective.

    pairs -> latents and text embeddings (cached once) -> noise -> policy and reference errors -> objective -> step

Each place in the data order has its own noise and time, drawn from (seed, place). A run therefore continues to the
same bits after being killed, and does not depend on how many processes share a batch.

Run on one device:   visalign train configs/sdxl_dpo.yaml
Run on several:      torchrun --nproc_per_node 4 -m visalign train configs/sdxl_dpo.yaml
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from visalign.config import OfflineConfig
from visalign.evaluators.displacement import Entanglement, entanglement, entanglement_metrics, flat_gradient
from visalign.generators.base import Generator
from visalign.objectives import PairErrors
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import rng_at, rng_for
from visalign.storage.files import write_atomically
from visalign.storage.out_of_memory import memory_told
from visalign.storage.run_folder import RunFolder
from visalign.trainers.base import GeneratorTrainer
from visalign.trainers.bucket_order import BucketOrder
from visalign.trainers.flips import LearntFlips
from visalign.trainers.metrics import pair_likelihoods, pair_metrics
from visalign.trainers.offline.encoded_pairs import (
    EncodedPair,
    PairBatch,
    PreparedPairs,
    asks_without_prompt,
    empty_keys,
    load_batch,
    of_one_size,
    untrained_cause,
)
from visalign.trainers.offline.noised import (
    Asked,
    Noised,
    conditioning_of,
    recomputed_errors,
    row_errors,
    sample_errors,
)
from visalign.trainers.offline.pair_labels import PairLabels
from visalign.trainers.offline.pair_watch import PairWatch
from visalign.trainers.offline.sides import mixture_of
from visalign.trainers.offline.states import STATES
from visalign.trainers.offline.users import NOBODY_ASKED, Everybody
from visalign.trainers.order import DataOrder
from visalign.trainers.prefetch import Prefetch

FIXED_FRACTIONS = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
"""Noise levels at which held-out pairs are compared."""

HELD_OUT_BATCH = 16
"""Held-out pairs of a batch."""

ENTANGLED = 4
"""Held-out pairs whose gradients are compared, at each of these levels."""

READERS = 2
"""Threads that read the next micro-batches from the cache."""


class OfflineTrainer(GeneratorTrainer):
    """Trains `generator` on encoded `items`. The caller decides what to measure at which step. users: what the network
    is told of whose pairs they are."""

    watch: PairWatch | None

    def __init__(self, config: OfflineConfig, generator: Generator, items: list[EncodedPair],
                 held_out: list[EncodedPair],
                 cache: EncodingCache, run: RunFolder, accelerator: Accelerator, users: Everybody = NOBODY_ASKED):
        self.cache, self.order, self.held_out = cache, self._order(config, items, accelerator), held_out
        self.users = users
        learnt = [*items, *held_out] if asks_without_prompt(config) else []
        self.empty_keys = empty_keys(learnt, cache, accelerator)
        self.told_fits = bool(generator.told_fit) and config.data.tells_fits
        super().__init__(config, generator, run, accelerator)
        self.states = STATES[self.objective.states].of(self)
        self.labels = PairLabels(getattr(self.objective, "dynamic_labels", 0.0), items, accelerator)
        self.flips = LearntFlips(self.objective, len(items), accelerator)
        self.state.extras |= self.states.extras | self.labels.kept | self.flips.kept
        self._policy_errors = recomputed_errors if config.train.one_side_at_a_time else row_errors
        self.watch = (PairWatch(config, self.objective, len(held_out), run, self.engine.processes)
                      if config.watches_pairs else None)

    @staticmethod
    def _order(config: OfflineConfig, items: list[EncodedPair], accelerator: Accelerator) -> DataOrder[EncodedPair]:
        seed = config.train.seed
        mixture = mixture_of(items, config.data, seed)
        if config.data.buckets is None:
            return DataOrder(items, seed, mixture)
        return BucketOrder(items, seed, [item.size for item in items],
                           config.train.batch_size * accelerator.num_processes, mixture)

    def together(self) -> dict[str, int]:
        at_once = self.config.train.batch_size * self.engine.processes.world
        of_one_size = {"pairs of one size together": at_once} if self.config.data.buckets else {}
        return {"pairs a step": at_once * self.config.train.gradient_accumulation} | of_one_size

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        generator, train = self.generator, self.config.train
        generator.policy, self.optimizer = self.engine.prepare(generator.denoiser, self.state.optimizer)
        generator.set_dropout(True)
        with Prefetch(self._plan, train.steps * train.gradient_accumulation, READERS) as self.prepared:
            self._watch_pairs(self.state.step)
            yield
        generator.policy = generator.denoiser
        generator.set_dropout(False)

    def batch(self, step: int) -> range:
        """The numbers of this process's micro-batches."""
        many = self.config.train.gradient_accumulation
        return range(step * many, (step + 1) * many)

    def places(self, number: int) -> range:
        """The places in the data's order of a micro-batch of this process."""
        size, accelerator = self.config.train.batch_size, self.accelerator
        first = (number * accelerator.num_processes + accelerator.process_index) * size
        return range(first, first + size)

    def asked(self, number: int) -> list[Asked]:
        """What is learnt in a micro-batch of this process, by its number."""
        items = [(place, self.order[place]) for place in self.places(number)]
        return [Asked(item.prompt_key_at(self.config.train.seed, place), item.size) for place, item in items]

    def _plan(self, number: int) -> Callable[[], PreparedPairs]:
        """The items of a micro-batch; the returned call reads them."""
        places = self.places(number)
        return partial(self.prepare, places, [self.order[place] for place in places])

    @memory_told("training on pairs")
    def train_unit(self, step: int, batch: range) -> dict[str, float]:
        collected = []
        for number in batch:
            with self.engine.accumulation(self.generator.policy, last=number == batch[-1]):
                prepared = self.prepared[number]
                items = prepared.batch.items
                self.check_one_pass(*prepared.batch.conditionings)
                self.states.before(number)
                errors = replace(self.errors(*prepared), weight=self._weights(items), label=self.labels.of(items),
                                 across=partial(self.accelerator.reduce, reduction="mean"))
                outcome = self.objective(errors)
                self.stop_unless_finite(outcome.loss, items)
                self.labels.visited(items, outcome.metrics)
                self.flips.seen(outcome.loss)
                self.backward(outcome.loss / len(batch))
            collected.append(pair_metrics(outcome, errors))
        report = self.optimizer_step(items)
        self.labels.after_step()
        self.states.after_step(step + 1)
        self._watch_pairs(step + 1)
        return self.log.reduce(collected) | report.as_row() | self.flips.after_step()

    def _watch_pairs(self, step: int) -> None:
        """Measure held-out pairs for the guard, when that is due."""
        if self.watch is None:
            return
        self.watch.step = step
        if self.watch.is_due:
            with self.measuring():
                self.watch.note(self)

    def prepare(self, places: range, items: list[EncodedPair]) -> PreparedPairs:
        """All that a micro-batch needs beside the network, drawn for the items' places in the order."""
        train = self.config.train
        sources = [rng_at(train.seed, place) for place in places]
        dropped = [torch.rand((), generator=g).item() < self.config.data.caption_dropout for g in sources]
        batch = load_batch(items, self.cache, [
            (self.empty_keys[item.size],) * 2 if d else item.prompt_keys_at(train.seed, place)
            for d, item, place in zip(dropped, items, places, strict=True)], self.told_fits,
            self.users.of(items, places))
        batch = replace(batch, coin=torch.cat([torch.rand(1, generator=rng_for("label", train.seed, place))
                                               for place in places]))
        drawn = [(torch.cat([self.draw_time(g) for g in sources]),
                  torch.stack([torch.randn(batch.chosen.shape[1:], generator=g) for g in sources]))
                 for _ in range(1 if self.config.data.shared_noise else 2)]
        t, noise = (torch.cat(halves) for halves in zip(*drawn, strict=True))
        prepared = PreparedPairs(batch, t, noise, sources)
        return prepared.pinned() if self.generator.device.type == "cuda" else prepared

    def draw_time(self, rng: torch.Generator) -> Tensor:
        """A random time of training, [1]."""
        process = replace(self.generator.process, shift=self.config.train.timestep_shift)
        return process.sample_times(1, self.config.train.timestep_sampling, rng)

    def _weights(self, items: list[EncodedPair]) -> Tensor | float:
        """How much each item counts in the loss, [B] on the generator's device; 1 where all count the same."""
        weights = [source.loss_weight for source in self.config.data.sources or ()]
        if set(weights) <= {1.0}:
            return 1.0
        return torch.tensor([weights[item.origin] for item in items], device=self.generator.device)

    def errors(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> PairErrors:
        """Errors of policy and reference that the objective needs, at the states it names; t [B] and noise [B, ...], or
        [2B] and [2B, ...]."""
        with self.generator.working_at(batch.size):
            return self._errors_at_work(batch, t, noise, rngs)

    def _errors_at_work(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> PairErrors:
        device = self.generator.device
        states = self._passes(self.states.draw(batch, t, noise, rngs))
        conditioning = conditioning_of(self.generator, batch)
        reference: dict[str, Tensor] = {}
        if "reference" in self.objective.needs:
            with torch.no_grad(), self.states.reference():
                reference = sample_errors(self.generator, states, conditioning)
        policy = sample_errors(self.generator, states, conditioning, self._policy_errors)
        return PairErrors(
            chosen=policy["chosen"], rejected=policy.get("rejected"), ref_chosen=reference.get("chosen"),
            ref_rejected=reference.get("rejected"), anchor=policy.get("anchor"), ref_anchor=reference.get("anchor"),
            noise_fraction=self.generator.process.noise_fraction(t[:len(batch.chosen)]).to(device),
            log_snr=self.generator.process.log_snr(t[:len(batch.chosen)]).to(device),
            strength=batch.strength.to(device), chance=batch.chance.to(device),
            coin=None if batch.coin is None else batch.coin.to(device),
            flip_logit=self.flips.logit,
            desirable=None if batch.desirable is None else batch.desirable.to(device),
            chosen_reward=None if batch.chosen_reward is None else batch.chosen_reward.to(device),
            rejected_reward=None if batch.rejected_reward is None else batch.rejected_reward.to(device))

    def _passes(self, states: list[Noised]) -> list[Noised]:
        """One after the other where memory asks for it, else both sides together."""
        return [part for state in states for part in state.apart()] if self.config.train.one_side_at_a_time else states

    @memory_told("measuring held-out pairs")
    @torch.no_grad()
    def held_out_metrics(self, limit: int = 64) -> dict:
        """The objective's metrics on held-out pairs at five fixed noise levels with fixed noise.

        `likelihoods`: the change of both samples' likelihoods, each replaced by minus the mean error. Beside them how
        the gradients of both errors lie to each other.
        """
        items = self.held_out[:limit]
        if not items:
            return {}
        totals: dict[str, list[Tensor]] = {}
        seen = [errors for look in self.held_out_errors(limit) for errors in look]
        for errors in seen:
            for name, values in pair_metrics(self.objective(errors), errors).items():
                totals.setdefault(name, []).append(values.float())
        found = {f"held_out/{k}": torch.cat(v).mean().item() for k, v in totals.items() if not k.startswith("noise")}
        prompts = [item.prompt for part in of_one_size(items, HELD_OUT_BATCH) for item in part]
        return (found | pair_likelihoods(seen, len(FIXED_FRACTIONS), prompts)
                | entanglement_metrics(self._entangled(items[:ENTANGLED])))

    @torch.no_grad()
    def held_out_errors(self, limit: int, fractions: Tensor = FIXED_FRACTIONS) -> list[list[PairErrors]]:
        """Errors of the first held-out pairs: for each batch of them, one at each noise level; on the CPU."""
        self.states.before(None)
        parts = list(enumerate(of_one_size(self.held_out[:limit], HELD_OUT_BATCH)))
        return self.engine.processes.share(parts, lambda part: self._errors_at_levels(*part, fractions))

    def _at_levels(self, number: int, items: list[EncodedPair],
                   fractions: Tensor = FIXED_FRACTIONS) -> Iterator[PreparedPairs]:
        """The `number`-th held-out pairs at each level."""
        batch = load_batch(items, self.cache, fits=self.told_fits, beside=self.users.of(items))
        for fraction in fractions:
            generator = torch.Generator().manual_seed(16 * number + int(fraction * 100))
            noise = torch.randn(batch.chosen.shape, generator=generator)
            t = self.generator.process.times_at(fraction.repeat(len(batch.items)))
            yield PreparedPairs(batch, t, noise, [generator] * len(batch.items))

    def _errors_at_levels(self, number: int, items: list[EncodedPair], fractions: Tensor) -> list[PairErrors]:
        """Errors of the `number`-th held-out pairs at each level, on the CPU."""
        found = []
        for prepared in self._at_levels(number, items, fractions):
            errors = self.errors(*prepared)
            found.append(replace(errors, **{name: value.cpu() for name, value in vars(errors).items()
                                            if isinstance(value, Tensor)}))
        return found

    def _entangled(self, items: list[EncodedPair]) -> list[Entanglement]:
        """Of each pair alone at each level, on the weights that learn: one side after the other, so that no more is
        held than in a step. [] where that would take more than training does: whole gradients of a full fine-tune,
        weights that others hold, and a pass that would be compiled for it."""
        model = self.config.model
        if "rejected" not in self.objective.sides or model.tuning == "full" or model.compile or \
                self.engine.processes.world > 1:
            return []
        found = []
        for number, item in enumerate(items):
            for batch, t, noise, rngs in self._at_levels(number, [item]):
                gradients: dict[str, Tensor] = {}
                with self.generator.working_at(batch.size), torch.enable_grad():
                    conditioning = conditioning_of(self.generator, batch)
                    drawn = [each for each in self.states.draw(batch, t, noise, rngs) if each.learnt]
                    for state in (part for each in drawn for part in each.apart()):
                        [side] = state.sides
                        gradient = flat_gradient(row_errors(self.generator, state, conditioning).sum(),
                                                 self.parameters)
                        gradients[side] = gradients[side] + gradient if side in gradients else gradient
                found.append(entanglement(gradients["chosen"], gradients["rejected"]))
        return found

    def blame(self, items: list[EncodedPair]) -> str:
        """Before the first step nothing that was learnt can be to blame."""
        rows = [{"prompt": item.prompt, "where": item.where} for item in items]
        failure = self.run.path / f"failure-rank{self.accelerator.process_index}.json"
        write_atomically(failure, json.dumps({"step": self.state.step + 1, "rows": rows}, indent=2).encode())
        cause = " (a lower optim.lr or model.precision=fp32 usually helps)" if self.state.step else \
            untrained_cause(self.generator, load_batch(items, self.cache))
        return f"{cause}; the batch's rows are in {failure}"
