"""The online loop: the generator learns from its own scored samples; for every family and every method.

    prompts x group -> sampling run -> rewards (in the background) -> advantages -> terms -> objective -> step

Methods differ by an objective, an advantage rule, and the sampling steps they use. The loop sums gradients itself, once
an update, so processes may hold different numbers of samples and a sample weighs the same wherever it lies.

Run on one device:   visalign train configs/online/flow_grpo.yaml
Run on several:      torchrun --nproc_per_node 4 -m visalign train configs/online/flow_grpo.yaml
"""

import contextlib
import time

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from visalign.config import OnlineConfig
from visalign.config.load import build_advantage, build_objective
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.media.video_files import save_sheet
from visalign.objectives.advantages import Advantages, History
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import rng_for
from visalign.storage.run_folder import RunFolder
from visalign.trainers.checkpoint import Checkpoints, TrainingState
from visalign.trainers.metrics import MetricLog
from visalign.trainers.online.collect import PromptEmbeddings, PromptTask, RolloutBatch, RolloutCollector
from visalign.trainers.online.metrics import StepTable, epoch_metrics, peak_memory, rollout_rows
from visalign.trainers.online.old_policy import OldPolicy
from visalign.trainers.online.rollout import Sampler
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.self_check import check_ratio
from visalign.trainers.online.step_selection import noisy_steps, plan_steps
from visalign.trainers.online.views import VIEWS, Context, MicroBatch
from visalign.trainers.optim import build_ema, build_optimizer, build_schedule
from visalign.trainers.reach import GradientReach
from visalign.trainers.stopping import postponed


class OnlineTrainer:
    """Teaches `generator` from its own samples of `asked`. The caller decides what to measure (`on_epoch`)."""

    def __init__(self, config: OnlineConfig, generator: Generator, tasks: list[PromptTask],
                 reward_set: RewardSet | None,
                 run: RunFolder, accelerator: Accelerator):
        check_arithmetic(config, accelerator.num_processes)
        self.config, self.generator, self.reward_set = config, generator, reward_set
        self.run, self.accelerator = run, accelerator
        self.objective, self.rule = build_objective(config.objective, loop="online"), build_advantage(config.advantage)
        torch.manual_seed(config.train.seed)  # the adapter's start must be the same on every process and after a kill
        lora = config.model.lora
        parameters = generator.make_trainable(
            config.model.tuning, rank=lora.rank, alpha=lora.alpha, targets=lora.targets,
            gradient_checkpointing=config.model.gradient_checkpointing)
        optimizer = build_optimizer(config.optim, parameters)
        self.unit = self.objective.unit_size(config.rollout.group_size)
        self.updates_a_run = config.train.epochs * config.train.updates_per_epoch
        self.old = OldPolicy(parameters) if "old" in self.objective.needs else None
        self.history = History(self.rule.history) if self.rule.history else None
        self.counts = RunCounts()
        kept = {"old": self.old, "history": self.history, "counts": self.counts}
        self.state = TrainingState(generator.trainable_parameters(), optimizer,
                                   build_schedule(config.optim, optimizer, self.updates_a_run),
                                   build_ema(config.optim, parameters),
                                   extras={name: each for name, each in kept.items() if each is not None})
        self.checkpoints = Checkpoints(self.state, run, accelerator, config.output, config.train.epochs)
        self.sampler = Sampler(generator, config.rollout, keep_mean="old_mean" in self.objective.needs)
        self.noisy = noisy_steps(generator.process, self.sampler.times, config.rollout)
        self.view = VIEWS[self.objective.view](
            Context(generator, config.rollout, self.objective, self.old, reward_set, config.train.seed), self.noisy)
        self.conditions = PromptEmbeddings(EncodingCache(config.rollout.cache, generator), config, generator.device)
        self.collector = RolloutCollector(config, generator, tasks, reward_set, self.conditions, accelerator,
                                          self.sampler)
        self.reach = GradientReach(self.state.parameters, apart=generator.used_apart)
        self.log = MetricLog(run, accelerator, {"reward": "reward", "zero_std_ratio": "zero", "loss": "loss"})

    def fit(self, on_epoch=lambda epoch: False) -> bool:
        """Train to config.train.epochs; `on_epoch(n)` is called after n epochs, with their checkpoint written.

        It may end the run; returns whether it did.
        """
        epochs, ended = self.config.train.epochs, False
        self.optimizer = self.accelerator.prepare(self.state.optimizer)
        self.generator.denoiser.eval()  # no dropout: the policy that learns is the one that sampled
        first = self.state.step
        with tqdm(total=epochs, initial=first, desc="online training", unit="epoch",
                  disable=not self.accelerator.is_main_process) as progress:
            while self.state.step < epochs and not ended:
                started = time.perf_counter()
                collected = self._collect(self.state.step)  # nothing has changed yet, so a signal may end it at once
                with postponed():
                    row = self._learn(self.state.step, collected, is_first=self.state.step == first)
                    self.state.step += 1
                    self.log.write(self.state.step, row | {"seconds": time.perf_counter() - started})
                    progress.update()
                    progress.set_postfix_str(self.log.smoothed())
                    self.checkpoints.after_step()
                ended = on_epoch(self.state.step)
        return ended

    def _learn(self, epoch: int, collected: RolloutBatch, is_first: bool) -> dict:
        """An epoch's updates; returns what is logged."""
        advantages = self._advantages(collected)
        units = self.objective.select(advantages.advantages, advantages.trained, collected.groups)
        row = epoch_metrics(collected, advantages, self.reward_set, self.accelerator) | {"trained_samples": sum(
            len(unit) for unit in units), "window": min(collected.stochastic, default=-1)}
        self._show(epoch, collected)
        training = time.perf_counter()
        rows = [self._update(epoch, part, collected, advantages, check=is_first and first)
                for first, part in self._parts(epoch, units)]
        self.counts.idle_epochs = 0 if units else self.counts.idle_epochs + 1
        if self.counts.idle_epochs >= self.config.train.patience:
            raise UserError(f"epoch {epoch + 1}: for {self.counts.idle_epochs} epochs no sample could be learnt from, "
                            "since all rewards of each prompt were alike; the reward sees no difference between this "
                            "model's samples, or rollout.group_size is too small")
        if self.old is not None:
            decay = self.objective.old_decay(self.counts.updates)
            row |= {"old_distance": self.old.distance(), "old_decay": decay}
            self.old.follow(decay)
        row |= averaged(rows) | {f"seconds/{name}": value for name, value in collected.seconds.items()}
        return row | {"seconds/training": time.perf_counter() - training, "updates": self.counts.updates,
                      "bad_updates": self.counts.bad_updates, "peak_memory_gib": peak_memory(),
                      **{f"passes/{name}": count for name, count in self.generator.passes.items()}}

    def _show(self, epoch: int, collected: RolloutBatch) -> None:
        """Keep a grid of own samples of the first epoch, of those that are evaluated, and of the last."""
        every, last = self.config.eval.every, self.config.train.epochs - 1
        if self.run.is_main and self.reward_set and (epoch in (0, last) or (every and (epoch + 1) % every == 0)):
            folder = self.run.path / "rollouts"
            folder.mkdir(exist_ok=True)
            save_sheet(rollout_rows(collected, self.config.rollout.group_size), folder / f"epoch-{epoch + 1:06d}.png")

    def _collect(self, epoch: int) -> RolloutBatch:
        """One epoch's samples, scored."""
        plan = plan_steps(self.config.rollout, self.noisy, epoch, self.config.train.seed, self.collector.places())
        place_rewards(self.reward_set, self.config, str(self.generator.device))
        with self._sampling_policy():
            collected = self.collector.collect(epoch, plan, self.view.kept(plan))
        place_rewards(self.reward_set, self.config, "cpu")
        return collected

    def _sampling_policy(self) -> contextlib.AbstractContextManager:
        """Within: what draws the samples. Images that were voted on are the untrained model's."""
        if self.config.rollout.votes:
            return self.generator.reference()
        return contextlib.nullcontext() if self.old is None else self.old.active()

    def _advantages(self, collected: RolloutBatch) -> Advantages:
        names = self.reward_set.names if self.reward_set else ("vote",)
        weights = self.reward_set.weights if self.reward_set else torch.ones(1, dtype=torch.float64)
        if self.history is not None:
            total = (collected.rewards.double() * weights).sum(1)
            self.history.add(collected.prompts, total.tolist())
        try:
            return self.rule(collected.rewards, weights, collected.groups, names, self._likelihood(collected),
                             self.history)
        except ValueError as error:
            raise UserError(f"advantage: {error}") from None

    def _likelihood(self, collected: RolloutBatch) -> Tensor | None:
        """Minus the distance of each sample's latents from its group's centre, [n], where the rule asks for it."""
        if not self.rule.unlikeliness:
            return None
        found = []
        places = sorted(collected.samples)
        for slot in dict.fromkeys(collected.groups[place].item() for place in places):
            members = [place for place in places if collected.groups[place] == slot]
            latents = torch.stack([collected.samples[place].latents for place in members]).flatten(1)
            distance = (latents - latents.mean(0)).square().mean(1)
            found += list(zip(members, (-distance).tolist(), strict=True))
        mine = torch.tensor(found, dtype=torch.float64, device=self.accelerator.device)
        everyone = self.accelerator.gather(mine).cpu()
        return everyone[everyone[:, 0].argsort(), 1]

    def _parts(self, epoch: int, units: list[tuple[int, ...]]) -> list[tuple[bool, list[tuple[int, ...]]]]:
        """The units of each update (is it the first?, units), divided by whole sampling batches in a random order."""
        updates = self.config.train.updates_per_epoch
        batches = self.collector.batch_of(self.collector.size - 1) + 1
        order = torch.randperm(batches, generator=rng_for(self.config.train.seed, epoch, "updates"))
        part_of = {batch: i * updates // batches for i, batch in enumerate(order.tolist())}
        parts = [[unit for unit in units if part_of[self.collector.batch_of(unit[0])] == i] for i in range(updates)]
        return [(i == 0, part) for i, part in enumerate(parts)]

    def _update(self, epoch: int, units: list[tuple[int, ...]], collected: RolloutBatch, advantages: Advantages,
                check: bool) -> dict:
        """One optimiser step on `units`, the same list on every process; {} when it is empty."""
        if not units:
            return {}
        mine = [unit for unit in units if unit[0] in collected.samples]
        size = max(1, self.config.train.batch_size // self.unit)
        table = StepTable()
        for first in tqdm(range(0, len(mine), size), desc=f"epoch {epoch + 1}: training", unit="batch", leave=False,
                          disable=not self.accelerator.is_main_process):
            self.checkpoints.stop_in_between()
            batch = self._micro_batch(epoch, mine[first:first + size], collected, advantages)
            if check and not first:
                self._self_check(batch)
            share = len(batch.samples) / self.unit / len(units)
            for term in range(self.view.terms):
                terms, steps = self.view.build(batch, term)
                outcome = self.objective(terms)
                self.accelerator.backward(outcome.loss * share / self.view.terms)
                table.add(steps, outcome)
        if mine:
            self.reach.check()
        everyone = gather_object(table.rows) if self.accelerator.num_processes > 1 else table.rows
        return StepTable(everyone).summary() | self._step(epoch)

    def _micro_batch(self, epoch: int, units: list[tuple[int, ...]], collected: RolloutBatch,
                     advantages: Advantages) -> MicroBatch:
        places = [place for unit in units for place in unit]
        samples = [collected.samples[place] for place in places]
        conditioning, guidance = self.conditions.of([sample.start for sample in samples])
        advantage = advantages.of_terms()[places].float().to(self.generator.device)
        return MicroBatch(samples, advantage, conditioning, guidance, epoch)

    def _step(self, epoch: int) -> dict:
        """Sum gradients over processes, clip, step; a gradient that is not finite is left out and counted."""
        accelerator, parameters = self.accelerator, [p for _, p in self.state.parameters]
        sum_gradients(parameters, accelerator)
        norm = accelerator.clip_grad_norm_(parameters, self.config.optim.grad_clip)
        finite, rate = bool(torch.as_tensor(norm).isfinite()), self.state.schedule.get_last_lr()[0]
        moved, skipped = 0.0, True
        if finite or accelerator.scaler is not None:  # with fp16 the loss scale finds its level by such steps
            before = torch.cat([p.detach().flatten()[:100_000].clone() for p in parameters])
            self.optimizer.step()
            skipped = self.optimizer.step_was_skipped
            after = torch.cat([p.detach().flatten()[:100_000] for p in parameters])
            moved = float((after - before).norm() / before.norm().clamp(min=1e-12))
        self.optimizer.zero_grad()
        self.state.advance(skipped)
        self.counts.record(finite)
        if self.counts.bad_in_a_row >= self.config.train.patience * (1 if accelerator.scaler is None else 10):
            raise UserError(f"epoch {epoch + 1}: {self.counts.bad_in_a_row} updates in a row had a gradient that is "
                            f"not finite; {self.checkpoints.last_good()} (a lower optim.lr or model.precision=fp32 "
                            "usually helps)")
        clipped = finite and float(norm) > self.config.optim.grad_clip
        row = {"grad_clipped": float(clipped), "update_norm": moved, "lr": rate}
        return row | {"grad_norm": float(norm)} if finite else row

    def _self_check(self, batch: MicroBatch) -> None:
        """Before the first update every ratio must be 1. Raises UserError with the likely cause."""
        if self.objective.view == "steps" and not self.config.rollout.votes:
            worst = check_ratio(self.view, batch, self.generator)
            self.run.log({"kind": "self_check", "step": self.state.step, "log_ratio": worst})

    def held_out_metrics(self) -> dict[str, float]:
        """Nothing beyond what is measured on the held-out samples."""
        return {}


class RunCounts:
    """Updates made, updates left out for their gradient, and how many of either kind came in a row."""

    def __init__(self):
        self.updates = self.bad_updates = self.bad_in_a_row = self.idle_epochs = 0

    def record(self, finite: bool) -> None:
        self.updates += 1
        self.bad_updates += not finite
        self.bad_in_a_row = 0 if finite else self.bad_in_a_row + 1

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def place_rewards(reward_set: RewardSet | None, config: OnlineConfig, device: str) -> None:
    """Move the rewards' networks where `reward.offload` wants them."""
    if reward_set and config.reward.offload:
        reward_set.to(device)


def sum_gradients(parameters: list[torch.nn.Parameter], accelerator: Accelerator) -> None:
    """Every process ends with the sum of all processes' gradients."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "sum")
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(part.view_as(parameter))


def averaged(rows: list[dict]) -> dict:
    """Means over an epoch's updates; tables are the last update's, where the policy has moved furthest."""
    rows = [row for row in rows if row]
    if not rows:
        return {}
    numbers = {}
    for name in {name for row in rows for name in row} - {"by_step"}:
        values = [row[name] for row in rows if name in row]
        numbers[name] = sum(values) / len(values)
    return numbers | {"by_step": rows[-1]["by_step"]}


def check_arithmetic(config: OnlineConfig, world: int) -> None:
    """Raise UserError naming the numbers to change when an epoch does not divide into batches and updates."""
    rollout, train = config.rollout, config.train
    rule, objective = build_advantage(config.advantage), build_objective(config.objective, loop="online")
    size, together = rollout.prompts_per_epoch * rollout.group_size, rollout.batch_size * world
    product = (f"rollout.prompts_per_epoch {rollout.prompts_per_epoch} x rollout.group_size {rollout.group_size} = "
               f"{size} samples")
    if size % together:
        raise UserError(f"{product} are not a multiple of rollout.batch_size {rollout.batch_size} x {world} processes "
                        f"= {together}; change one of these numbers")
    if size // together < train.updates_per_epoch or (size // together) % train.updates_per_epoch:
        raise UserError(f"{product} make {size // together} sampling batches of {together}, which cannot be divided "
                        f"among train.updates_per_epoch {train.updates_per_epoch}; change one of these numbers")
    unit = objective.unit_size(rollout.group_size)
    whole = unit > 1 or bool(rule.unlikeliness)
    if whole and rollout.batch_size % rollout.group_size:
        raise UserError(f"rollout.batch_size {rollout.batch_size} must be a multiple of rollout.group_size "
                        f"{rollout.group_size}: this method needs each group in one process")
    if unit > train.batch_size:
        raise UserError(f"train.batch_size {train.batch_size} must be at least {unit}, the samples that this "
                        "objective compares")
    if rollout.group_size < objective.least_group:
        raise UserError(f"rollout.group_size {rollout.group_size}: {config.objective['name']} chooses from at least "
                        f"{objective.least_group} samples of a prompt with these settings of objective")
    alone = rollout.group_size == 1 and rule.baseline != "none" and not rule.history
    if alone and objective.view != "sampling":
        raise UserError("rollout.group_size 1: one sample of a prompt has nothing to be compared with, so every "
                        "advantage is 0; use at least 2, advantage.baseline none, or advantage.history")
    if rule.baseline == "median" and rollout.group_size % 2 == 0:
        raise UserError(f"rollout.group_size {rollout.group_size}: must be odd with advantage.baseline median (MC-GRPO "
                        "samples one more than it trains on)")
