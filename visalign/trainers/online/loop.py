"""The online loop: the generator learns from its own scored samples; for every family and every method.

    prompts x group -> sampling run -> rewards (in the background) -> advantages -> terms -> objective -> step

Samples come from a source: this process (collect.py), or others that sample while it learns (ahead/).

Methods differ by an objective, an advantage rule, and the sampling steps they use. Losses of all processes add up, so
they may hold different numbers of samples, and a sample has the same weight on any of them.

Run on one device:   visalign train configs/online/flow_grpo.yaml
Run on several:      torchrun --nproc_per_node 4 -m visalign train configs/online/flow_grpo.yaml
"""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from visalign.config import OnlineConfig
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.media.video_files import save_sheet
from visalign.objectives import Outcome
from visalign.objectives.advantages import Advantages
from visalign.sampling.encoding_cache import EncodingCache
from visalign.sampling.seeds import rng_for
from visalign.storage.out_of_memory import memory_told
from visalign.storage.run_folder import RunFolder
from visalign.trainers.base import GeneratorTrainer, NonFinite
from visalign.trainers.online.collect import PromptEmbeddings, RolloutBatch, RolloutParts
from visalign.trainers.online.crediting import Crediting
from visalign.trainers.online.epoch_shape import check_arithmetic
from visalign.trainers.online.epochs import Epochs, PromptTask
from visalign.trainers.online.metrics import StepTable, epoch_metrics, guide_figures, peak_memory, rollout_rows
from visalign.trainers.online.old_policy import OldPolicy
from visalign.trainers.online.rollout import sampler_of
from visalign.trainers.online.scoring import RewardSet
from visalign.trainers.online.self_check import check_ratio
from visalign.trainers.online.sources import SOURCES
from visalign.trainers.online.step_selection import noisy_steps
from visalign.trainers.online.updates import update_for, whole_loss
from visalign.trainers.online.view_names import VIEWS
from visalign.trainers.online.views import Context, MicroBatch
from visalign.trainers.online.watching import GroupWatch


class OnlineTrainer(GeneratorTrainer):
    """Trains `generator` on its own samples of `tasks`. The caller decides what to measure after which epoch."""

    unit, label = "epoch", "online training"
    shown = {"reward": "reward", "zero_std_ratio": "zero", "loss": "loss"}
    non_finite = NonFinite.SKIP
    watch: GroupWatch | None

    def __init__(self, config: OnlineConfig, generator: Generator, tasks: list[PromptTask],
                 reward_set: RewardSet | None, run: RunFolder, accelerator: Accelerator):
        check_arithmetic(config, accelerator.num_processes)
        super().__init__(config, generator, run, accelerator,
                         updates=config.train.epochs * config.train.updates_per_epoch)
        self.reward_set = reward_set
        self.unit_size = self.objective.unit_size(config.rollout.group_size)
        self.copies = {name: OldPolicy(self.parameters) for name in ("old", "sampler") if name in self.objective.needs}
        self.counts = RunCounts()
        self.sampler = sampler_of(config, generator)
        self.noisy = noisy_steps(generator.process, self.sampler.times, config.rollout)
        self.sampler.guide.check(self.noisy)
        self.view = VIEWS[self.objective.view](
            Context(generator, config.rollout, self.objective, self.copies.get("old"), reward_set, config.train.seed),
            self.noisy)
        self.credit = Crediting(config, reward_set, self.view, accelerator)
        self.update = update_for(self.credit.mixture, self.credit.names, self.parameters, self.engine)
        self.state.extras |= self.copies | self.credit.kept | {"counts": self.counts}
        self.watch = self._watch(run)
        self.conditions = PromptEmbeddings(EncodingCache(config.rollout.cache, generator), config, generator.device)
        self.epochs = Epochs(config, tasks, self.conditions.key, self.engine.processes, self.noisy, self.view.kept)
        self.rollouts = SOURCES[config.rollout.engine](RolloutParts(
            config, generator, self.epochs, reward_set, self.conditions, self.engine, self.sampler,
            self._sampling_policy, self.state.parameters))
        self.state.extras |= self.rollouts.kept

    def _watch(self, run: RunFolder) -> GroupWatch | None:
        if self.reward_set is None or self.reward_set.watch is None:
            return None
        return GroupWatch(run, self.engine.processes, self.config.train.epochs, self.reward_set.watch,
                          self.reward_set.weights)

    def together(self) -> dict[str, int]:
        if self.config.train.updates_per_epoch == 1:
            return {}
        return {"samples drawn together": self.config.rollout.batch_size * self.engine.processes.world}

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        self.first = self.state.step
        self.generator.set_dropout(False)  # the trained policy is the one that sampled
        _, self.optimizer = self.engine.prepare(self.generator.denoiser, self.state.optimizer, summed=True)
        with self.rollouts.running():
            yield

    def batch(self, epoch: int) -> RolloutBatch:
        """One epoch's samples, scored."""
        return self.rollouts.collect(epoch)

    def train_unit(self, epoch: int, collected: RolloutBatch) -> dict:
        """An epoch's updates."""
        said = self.credit.said_by_guide(collected)
        advantages = self.credit.advantages(epoch, collected, said)
        units = self.objective.select(advantages.advantages, advantages.trained, collected.groups)
        row = self.credit.figures() | epoch_metrics(
            collected, advantages, self.reward_set, self.accelerator) | {"trained_samples": sum(
            len(unit) for unit in units), "window": min(collected.stochastic, default=-1),
                                              "staleness": epoch - collected.version}
        row |= {} if said is None else guide_figures(said.values)
        row |= self.watch.note(epoch + 1, collected) if self.watch else {}
        self._show(epoch, collected)
        self.view.expect(collected.stored)
        training = time.perf_counter()
        current = epoch == self.first and collected.version == epoch
        rows = [self._update(epoch, part, collected, advantages, check=first and current)
                for first, part in self._parts(epoch, units)]
        self.counts.idle_epochs = 0 if units else self.counts.idle_epochs + 1
        if self.counts.idle_epochs >= self.config.train.patience:
            raise UserError(f"epoch {epoch + 1}: for {self.counts.idle_epochs} epochs no sample could be trained on, "
                            "since all rewards of each prompt were equal; the reward sees no difference between this "
                            "model's samples, or rollout.group_size is too small")
        for name, copy in self.copies.items():
            decay = self.objective.copy_decay(name, self.counts.updates)
            row |= {f"{name}_distance": copy.distance(), f"{name}_decay": decay}
            copy.follow(decay)
        row |= averaged(rows) | {f"seconds/{name}": value for name, value in collected.seconds.items()}
        return row | {"seconds/training": time.perf_counter() - training, "updates": self.counts.updates,
                      "bad_updates": self.counts.bad_updates, "peak_memory_gib": peak_memory(),
                      **{f"passes/{name}": count for name, count in self.generator.passes.items()}}

    def _show(self, epoch: int, collected: RolloutBatch) -> None:
        """Save the grid of an epoch's samples."""
        if self.run.is_main and self.epochs.is_shown(epoch):
            folder = self.run.path / "rollouts"
            folder.mkdir(exist_ok=True)
            save_sheet(rollout_rows(collected, self.config.rollout.group_size), folder / f"epoch-{epoch + 1:06d}.png")

    def _sampling_policy(self) -> contextlib.AbstractContextManager:
        """A context with the policy that draws the samples; images that were voted on are the untrained model's."""
        if self.config.rollout.votes:
            return self.generator.reference()
        copy = self.copies.get(self.objective.drawn_by(self.counts.updates))
        return contextlib.nullcontext() if copy is None else copy.active()

    def _parts(self, epoch: int, units: list[tuple[int, ...]]) -> list[tuple[bool, list[tuple[int, ...]]]]:
        """The units of each update (is it the first?, units), divided by whole sampling batches in a random order."""
        updates = self.config.train.updates_per_epoch
        batches = self.epochs.batch_of(self.epochs.size - 1) + 1
        order = torch.randperm(batches, generator=rng_for(self.config.train.seed, epoch, "updates"))
        part_of = {batch: i * updates // batches for i, batch in enumerate(order.tolist())}
        parts = [[unit for unit in units if part_of[self.epochs.batch_of(unit[0])] == i] for i in range(updates)]
        return [(i == 0, part) for i, part in enumerate(parts)]

    @memory_told("training on samples")
    def _update(self, epoch: int, units: list[tuple[int, ...]], collected: RolloutBatch, advantages: Advantages,
                check: bool) -> dict:
        """One optimiser step on `units`, the same list on every process; {} when it is empty."""
        if not units:
            return {}
        parts, table = self._shares(units, collected), StepTable()

        def learn(values: Tensor, part: Callable[[Outcome], Tensor] = whole_loss, shown: bool = True) -> bool:
            split = False
            for number, (mine, counts) in enumerate(tqdm(parts, desc=f"epoch {epoch + 1}: training", unit="batch",
                                                         leave=False, disable=not self.accelerator.is_main_process)):
                self.checkpoints.stop_in_between()
                batch = self._micro_batch(epoch, mine, collected, values, advantages.process, counts)
                if check and not number:
                    self._self_check(batch)
                share = counts * len(batch.samples) / self.unit_size / len(units)
                for term in range(self.view.terms):
                    last = number == len(parts) - 1 and term == self.view.terms - 1
                    with self.engine.accumulation(self.generator.policy, last):
                        terms, steps = self.view.build(batch, term)
                        outcome = self.objective(terms)
                        self.backward(part(outcome) * share / self.view.terms)
                    split = outcome.apart is not None
                    if counts and shown:
                        table.add(steps, outcome)
            return split

        row = self.update(advantages, learn)
        everyone = gather_object(table.rows) if self.accelerator.num_processes > 1 else table.rows
        return StepTable(everyone).summary() | row | self._step(epoch)

    def _shares(self, units: list[tuple[int, ...]],
                collected: RolloutBatch) -> list[tuple[list[tuple[int, ...]], bool]]:
        """This process's units in micro-batches, and whether each counts or only keeps the processes in step."""
        mine = [unit for unit in units if unit[0] in collected.samples]
        size = max(1, self.config.train.batch_size // self.unit_size)
        spare = tuple(collected.samples)[:self.unit_size]
        return list(self.engine.in_step([mine[first:first + size] for first in range(0, len(mine), size)],
                                        lambda: [spare]))

    def _micro_batch(self, epoch: int, units: list[tuple[int, ...]], collected: RolloutBatch,
                     advantages: Tensor, process: Tensor | None, counts: bool) -> MicroBatch:
        places = [place for unit in units for place in unit]
        samples = [collected.samples[place] for place in places]
        conditioning, guidance = self.conditions.of([sample.start for sample in samples])
        scales = {guidance.scale, self.objective.train_guidance, self.objective.ref_guidance} - {None}
        guided = guidance.negative is not None and scales != {1}
        self.check_one_pass(conditioning, *([guidance.negative] if guided else []))
        advantage = advantages[places].float().to(self.generator.device)
        if not counts:  # it may have no score
            advantage = torch.zeros_like(advantage)
        if process is not None:
            process = counts * process[places].float().to(self.generator.device)
        return MicroBatch(samples, advantage, conditioning, guidance, epoch, process)

    def _step(self, epoch: int) -> dict:
        """One optimiser step, and how far it moved; raises UserError when too many in a row could not be made."""
        before = self.engine.first_values(self.parameters)
        report = self.optimizer_step()
        moved = self.engine.first_values(self.parameters) - before
        self.counts.record(report.finite)
        if self.counts.bad_in_a_row >= self.config.train.patience * (1 if self.accelerator.scaler is None else 10):
            raise UserError(f"epoch {epoch + 1}: {self.counts.bad_in_a_row} updates in a row had a gradient that is "
                            f"not finite; {self.checkpoints.last_good()} (a lower optim.lr or model.precision=fp32 "
                            "usually helps)")
        clipped = report.finite and report.grad_norm > self.config.optim.largest_norm
        row = {"grad_clipped": float(clipped), "lr": report.lr, "update_norm": float(
            self.engine.norm(moved) / self.engine.norm(before).clamp(min=1e-12))}
        return row | {"grad_norm": report.grad_norm} if report.finite else row

    def _self_check(self, batch: MicroBatch) -> None:
        """Before the first update every ratio must be 1. Raises UserError with the likely cause."""
        if self.view.has_ratio and not self.config.rollout.votes:
            with self.engine.gathered():
                worst = check_ratio(self.view, batch, self.generator)
            self.run.log({"kind": "self_check", "step": self.state.step, "log_ratio": worst})


class RunCounts:
    """Updates made, updates skipped for their gradient, and how many came in a row."""

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


def averaged(rows: list[dict]) -> dict:
    """Means over an epoch's updates; tables are the last update's, where the policy has moved furthest."""
    rows = [row for row in rows if row]
    if not rows:
        return {}
    numbers = {}
    for name in dict.fromkeys(name for row in rows for name in row if name != "by_step"):
        values = [row[name] for row in rows if name in row]
        numbers[name] = sum(values) / len(values)
    return numbers | {"by_step": rows[-1]["by_step"]}
