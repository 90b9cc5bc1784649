"""The offline loop: preference pairs to a fine-tuned generator, for every family and every objective.

    pairs -> latents and text embeddings (cached once) -> noise -> policy and reference errors -> objective -> step

Each place in the data order has its own noise and time, drawn from (seed, place). A run therefore continues to the
same bits after a kill, and does not depend on how many processes share a batch.

Run on one device:   visalign train configs/sdxl_dpo.yaml
Run on several:      torchrun --nproc_per_node 4 -m visalign train configs/sdxl_dpo.yaml
"""

import contextlib
import json
import time
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from visalign.config import OfflineConfig
from visalign.config.load import build_objective
from visalign.errors import UserError
from visalign.evaluation.held_out import FIXED_FRACTIONS
from visalign.generators.base import Generator
from visalign.objectives import Outcome, PairErrors
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import place_seed, rng_at
from visalign.storage.files import write_atomically
from visalign.storage.run_folder import RunFolder
from visalign.trainers.checkpoint import Checkpoints, TrainingState
from visalign.trainers.metrics import MetricLog, pair_likelihoods, pair_metrics
from visalign.trainers.offline.encoded_pairs import EncodedPair, PairBatch, load_batch, untrained_cause
from visalign.trainers.offline.states import STATES, sample_errors
from visalign.trainers.optim import build_ema, build_optimizer, build_schedule
from visalign.trainers.order import DataOrder
from visalign.trainers.reach import GradientReach
from visalign.trainers.stopping import postponed


class OfflineTrainer:
    """Teaches `generator` from encoded `items`. The caller decides what to measure at which step (`on_step`)."""

    def __init__(self, config: OfflineConfig, generator: Generator, items: list[EncodedPair],
                 held_out: list[EncodedPair],
                 cache: EncodingCache, run: RunFolder, accelerator: Accelerator):
        self.config, self.generator, self.cache = config, generator, cache
        self.run, self.accelerator = run, accelerator
        self.objective = build_objective(config.objective)
        self.order, self.held_out = DataOrder(items, config.train.seed), held_out
        self.empty_key = cache.prompt_key("")
        if config.data.caption_dropout:
            cache.add_prompts({self.empty_key: ""})
        torch.manual_seed(config.train.seed)  # the adapter's start must be the same on every process and after a kill
        lora = config.model.lora
        parameters = generator.make_trainable(
            config.model.tuning, rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets,
            gradient_checkpointing=config.model.gradient_checkpointing)
        self.states = STATES[self.objective.states](generator, self.objective, cache)
        optimizer = build_optimizer(config.optim, parameters)
        self.state = TrainingState(generator.trainable_parameters(), optimizer,
                                   build_schedule(config.optim, optimizer, config.train.steps),
                                   build_ema(config.optim, parameters), extras=self.states.extras)
        self.checkpoints = Checkpoints(self.state, run, accelerator, config.output, config.train.steps)
        self.reach = GradientReach(self.state.parameters, apart=generator.used_apart)
        self.log = MetricLog(run, accelerator)

    def fit(self, on_step=lambda step: False) -> bool:
        """Train to config.train.steps; `on_step(step)` is called after each optimiser step, and may end the run.

        Returns whether it did. Raises UserError on a loss that is not finite, with the rows saved to failure.json.
        """
        settings, accelerator = self.config.train, self.accelerator
        self.generator.policy, self.optimizer = accelerator.prepare(self.generator.denoiser, self.state.optimizer)
        self.generator.denoiser.train()
        with tqdm(total=settings.steps, initial=self.state.step, desc="training", unit="step",
                  disable=not accelerator.is_main_process) as progress:
            ended = False
            while self.state.step < settings.steps and not ended:
                started = time.perf_counter()
                with postponed():
                    row = self._step()
                    self.state.step += 1
                    self.states.after_step(self.state.step)
                    self.log.write(self.state.step, row | {"seconds": time.perf_counter() - started})
                    progress.update()
                    progress.set_postfix_str(self.log.smoothed())
                    self.checkpoints.after_step()
                ended = on_step(self.state.step)
        self.generator.policy = self.generator.denoiser
        self.generator.denoiser.eval()
        return ended

    def _step(self) -> dict[str, float]:
        settings, accelerator = self.config.train, self.accelerator
        torch.manual_seed(place_seed(settings.seed, self.state.step))  # LoRA dropout
        per_micro = settings.batch_size * accelerator.num_processes
        collected = []
        for micro in range(settings.gradient_accumulation):
            first = (self.state.step * settings.gradient_accumulation + micro) * per_micro
            first += accelerator.process_index * settings.batch_size
            places = range(first, first + settings.batch_size)
            last = micro == settings.gradient_accumulation - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.generator.policy):
                outcome, errors, items = self._loss(places)
                self._stop_if_not_finite(outcome.loss, items)
                accelerator.backward(outcome.loss / settings.gradient_accumulation)
            collected.append(pair_metrics(outcome, errors))
        self.reach.check()
        parameters = [p for _, p in self.state.parameters]
        norm = accelerator.clip_grad_norm_(parameters, self.config.optim.grad_clip)
        if accelerator.scaler is None:  # with fp16 an infinite norm is how the loss scale finds its level
            self._stop_if_not_finite(norm, items)
        learning_rate = self.state.schedule.get_last_lr()[0]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.advance(self.optimizer.step_was_skipped)
        return self.log.reduce(collected) | {"grad_norm": float(norm), "lr": learning_rate}

    def _loss(self, places: range) -> tuple[Outcome, PairErrors, list[EncodedPair]]:
        items = [self.order[place] for place in places]
        sources = [rng_at(self.config.train.seed, place) for place in places]
        dropped = [torch.rand((), generator=g).item() < self.config.data.caption_dropout for g in sources]
        batch = load_batch(items, self.cache, [self.empty_key if d else item.prompt_key
                                               for d, item in zip(dropped, items, strict=True)])
        train = self.config.train
        process = replace(self.generator.process, shift=train.timestep_shift)
        t = torch.cat([process.sample_times(1, train.timestep_sampling, g) for g in sources])
        noise = torch.stack([torch.randn(batch.chosen.shape[1:], generator=g) for g in sources])
        errors = self.errors(batch, t, noise, sources)
        return self.objective(errors), errors, items

    def errors(self, batch: PairBatch, t: Tensor, noise: Tensor, rngs: list[torch.Generator]) -> PairErrors:
        """Errors of policy and reference that the objective needs, at the states it names; t [B], noise [B, ...]."""
        device = self.generator.device
        states = self.states.draw(batch, t, noise, rngs)
        conditioning = {name: value.to(device) for name, value in batch.conditioning.items()}
        reference: dict[str, Tensor] = {}
        if "reference" in self.objective.needs:
            with torch.no_grad(), self.states.reference():
                reference = sample_errors(self.generator, states, conditioning)
        policy = sample_errors(self.generator, states, conditioning)
        return PairErrors(
            chosen=policy["chosen"], rejected=policy.get("rejected"), ref_chosen=reference.get("chosen"),
            ref_rejected=reference.get("rejected"), noise_fraction=self.generator.process.noise_fraction(t).to(device),
            strength=batch.strength.to(device), chance=batch.chance.to(device),
            chosen_reward=None if batch.chosen_reward is None else batch.chosen_reward.to(device),
            rejected_reward=None if batch.rejected_reward is None else batch.rejected_reward.to(device))

    @torch.no_grad()
    def held_out_metrics(self, limit: int = 64) -> dict:
        """The objective's metrics on held-out pairs at five fixed noise levels with fixed noise.

        `likelihoods`: what became of both samples' likelihoods, minus the mean error standing for each.
        """
        items = self.held_out[:limit]
        if not items:
            return {}
        totals: dict[str, list[Tensor]] = {}
        seen: list[PairErrors] = []
        for start in range(0, len(items), 16):
            batch = load_batch(items[start:start + 16], self.cache)
            for fraction in FIXED_FRACTIONS:
                generator = torch.Generator().manual_seed(start + int(fraction * 100))
                noise = torch.randn(batch.chosen.shape, generator=generator)
                t = self.generator.process.times_at(fraction.repeat(len(batch.items)))
                errors = self.errors(batch, t, noise, [generator] * len(batch.items))
                seen.append(errors)
                for name, values in pair_metrics(self.objective(errors), errors).items():
                    totals.setdefault(name, []).append(values.float().cpu())
        found = {f"held_out/{k}": torch.cat(v).mean().item() for k, v in totals.items() if not k.startswith("noise")}
        return found | pair_likelihoods(seen, len(FIXED_FRACTIONS), [item.prompt for item in items])

    def _stop_if_not_finite(self, value: Tensor, items: list[EncodedPair]) -> None:
        finite = torch.as_tensor(value).isfinite().all().float().reshape(1).to(self.accelerator.device)
        if self.accelerator.gather(finite).min() > 0:
            return
        step = self.state.step + 1
        rows = [{"prompt": item.prompt, "where": item.where} for item in items]
        failure = self.run.path / f"failure-rank{self.accelerator.process_index}.json"
        write_atomically(failure, json.dumps({"step": step, "rows": rows}, indent=2).encode())
        raise UserError(f"step {step}: the loss or its gradient is not finite{self._cause(items)}; the batch's rows "
                        f"are in {failure}, {self.checkpoints.last_good()}")

    def _cause(self, items: list[EncodedPair]) -> str:
        """Why a loss may not be finite, in words: before the first step nothing that was learnt can be to blame."""
        if self.state.step:
            return " (a lower optim.lr or model.precision=fp32 usually helps)"
        return untrained_cause(self.generator, load_batch(items, self.cache))
