"""The skeleton of every training loop: the trained parameters, the loop over units, the optimiser step, resuming.

    fit:  batch -> train_unit (losses -> backward -> optimizer_step) -> log row -> checkpoint -> on_unit

Loops differ in what they call a batch and a loss. A new one is a subclass with

    batch(index)                the data of a unit; nothing has changed yet, so a signal may interrupt it
    train_unit(index, batch)    losses, `backward`, `optimizer_step`; returns the row that is logged
    learning()                  a context in which the network is handed to the engine, in its training mode

and inherits checkpoints, resuming to the same bits, postponed signals, averaged weights and the handling of losses
that are not finite. Whatever a unit draws must depend on the seed and its index alone: torch's own generator is seeded
with them before each unit.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from visalign.config.load import build_objective
from visalign.errors import UserError, notice
from visalign.generators.base import Conditioning, Generator
from visalign.generators.families.remarks import remarks
from visalign.generators.observe.rows import join
from visalign.parallel.engine import Engine
from visalign.parallel.opening import engine_of
from visalign.parallel.sharing import doing
from visalign.sampling.seeds import place_seed
from visalign.storage.files import full_disk_told
from visalign.storage.out_of_memory import give_back, memory_told
from visalign.storage.run_folder import RunFolder
from visalign.trainers.checkpoint import CONTINUE, Checkpoints, TrainingState
from visalign.trainers.followed import Watched
from visalign.trainers.gradients import gradients_for
from visalign.trainers.metrics import SHOWN_METRICS, MetricLog
from visalign.trainers.optim import build_ema, build_optimizer, build_schedule
from visalign.trainers.reach import GradientReach
from visalign.trainers.stopping import postponed


class NonFinite(Enum):
    """What happens at a gradient that is not finite: the run ends, or the step is skipped."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: norm of the gradient before clipping, learning rate, and whether the norm was finite."""

    grad_norm: float
    lr: float
    finite: bool

    def as_row(self) -> dict[str, float]:
        return {"grad_norm": self.grad_norm, "lr": self.lr}


class Trainer(ABC):
    """The trained state (`state`), where it is stored (`checkpoints`, `log`), and the loop over units (`fit`).

    config: has `train` (seed, steps), `optim` and `output`. named: trained parameters by name. groups: the same with
    learning rates of their own. updates: optimiser steps of the whole run, when a unit is not one. reach: where
    gradients are expected, when not everywhere. engine: what knows how processes share the network.
    """

    unit: ClassVar[str] = "step"
    """The unit of progress, `eval.every` and checkpoints."""
    label: ClassVar[str] = "training"
    shown: ClassVar[dict[str, str]] = SHOWN_METRICS
    """Metrics of the progress bar: {name: label}."""
    non_finite: ClassVar[NonFinite] = NonFinite.STOP

    def __init__(self, config, named: list[tuple[str, nn.Parameter]], run: RunFolder, accelerator: Accelerator, *,
                 groups: list[dict] | None = None, updates: int | None = None, reach: GradientReach | None = None,
                 engine: Engine | None = None):
        self.config, self.run, self.accelerator = config, run, accelerator
        self.engine = engine or engine_of(accelerator)
        self.parameters = [parameter for _, parameter in named]
        optimizer = build_optimizer(config.optim, groups or self.parameters)
        self.state = TrainingState(named, self.engine.divided(optimizer),
                                   build_schedule(config.optim, optimizer, updates or config.train.steps),
                                   build_ema(config.optim, self.parameters, optimizer))
        self.gradients = gradients_for(config.optim, self.parameters, optimizer, self.engine)
        self.checkpoints = Checkpoints(self.state, run, self.engine, config.output, config.train.steps)
        self.reach = reach or GradientReach(named)
        self.log = MetricLog(run, accelerator, self.shown)
        self._has_gradients = False

    @abstractmethod
    def batch(self, index: int) -> Any:
        """The data of unit `index`."""

    @abstractmethod
    def train_unit(self, index: int, batch: Any) -> dict:
        """Learn from one batch; returns the row that is logged."""

    @contextlib.contextmanager
    def learning(self) -> Iterator[None]:
        """A context in which the optimiser is the accelerator's; a loop may also wrap its network or set its mode."""
        self.optimizer = self.accelerator.prepare(self.state.optimizer)
        yield

    def networks(self) -> list[nn.Module]:
        """What the engine may have divided."""
        return []

    @contextlib.contextmanager
    def whole(self) -> Iterator[bool]:
        """A context at a run's end with averaged weights: whole ones in the first process. Gives whether it is this."""
        with self.state.averaged():
            self.engine.whole_on_first(*self.networks())
            yield self.engine.processes.is_first

    def together(self) -> dict[str, int]:
        """Numbers that a resumed run must keep, whatever its processes are: what they are, and how many."""
        return {}

    def held_out_metrics(self) -> dict[str, Any]:
        """Metrics logged beside those of held-out samples."""
        return {}

    def blame(self, batch: Any) -> str:
        """Why the loss of a batch may not be finite, as the continuation of "is not finite"."""
        return " (a lower optim.lr usually helps)"

    def reduce_gradients(self) -> None:
        """Give every process the gradients of all processes, where the backward pass has not done it."""
        self.engine.reduce(self.parameters)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """A context in which the run continues from its newest checkpoint and ends, if it must, with advice."""
        self._check_together()
        self.checkpoints.resume()
        self.run.log({"kind": "start", "step": self.state.step, "processes": self.accelerator.num_processes})
        with self.checkpoints.kept_on_stop(), full_disk_told(f"run {self.run.path}", self.run.path, CONTINUE):
            yield

    def _check_together(self) -> None:
        """Raise UserError when a resumed run would see its data in another order."""
        for what, now in self.together().items():
            then = self.run.started_from(what, str(now))
            if then != str(now):
                raise UserError(f"output.folder {self.run.path}: the run was started with {then} {what}, and these "
                                f"settings and {self.engine.processes.world} processes make {now}; change the batch "
                                "size so that the number stays")

    def fit(self, on_unit: Callable[[int], bool] = lambda done: False) -> bool:
        """Train to config.train.steps; `on_unit(n)` is called after n units, with their checkpoint written.

        It may end the run; returns whether it did. Raises Stopped when a signal asks for the end.
        """
        last, ended = self.config.train.steps, False
        progress = tqdm(total=last, initial=self.state.step, desc=self.label, unit=self.unit,
                        disable=not self.accelerator.is_main_process)
        with self.learning(), progress:
            while self.state.step < last and not ended:
                started = time.perf_counter()
                doing(f"{self.unit} {self.state.step + 1}, its data")
                batch = self.batch(self.state.step)
                doing(f"{self.unit} {self.state.step + 1}, learning")
                with postponed():
                    torch.manual_seed(place_seed(self.config.train.seed, self.state.step))
                    row = self.train_unit(self.state.step, batch)
                    self.state.step += 1
                    self.log.write(self.state.step, row | {"seconds": time.perf_counter() - started})
                    progress.update()
                    progress.set_postfix_str(self.log.smoothed())
                    self.checkpoints.after_step()
                ended = on_unit(self.state.step)
        return ended

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of this unit."""
        doing()
        self.engine.backward(loss)
        self._has_gradients = True

    @memory_told("stepping the optimiser")
    def optimizer_step(self, batch: Any = None) -> StepReport:
        """Reduce and clip the gradients, step, and advance schedule and average; `batch` is named when it is at fault.

        Raises UserError when no gradient reaches a parameter, or as `non_finite` says.
        """
        if self._has_gradients:
            self.reach.check(self.gradients.reached)
            self._has_gradients = False
        self.reduce_gradients()
        norm = self.gradients.norm()
        scaled = self.accelerator.scaler is not None  # with fp16 infinite norms are how the loss scale is found
        if self.non_finite is NonFinite.STOP and not scaled:
            self.stop_unless_finite(norm, batch)
        finite, rate, skipped = bool(torch.as_tensor(norm).isfinite()), self.state.schedule.get_last_lr()[-1], True
        if finite or scaled:
            self.optimizer.step()
            skipped = self.optimizer.step_was_skipped
        self.optimizer.zero_grad()
        self.state.advance(skipped)
        return StepReport(float(norm), rate, finite)

    def stop_unless_finite(self, value: Any, batch: Any) -> None:
        """Raise UserError, in all processes together, when a loss or a gradient's norm is not finite in one of them."""
        finite = torch.as_tensor(value).isfinite().all().float().reshape(1).to(self.accelerator.device)
        if self.accelerator.gather(finite).min() > 0:
            return
        raise UserError(f"{self.unit} {self.state.step + 1}: the loss or its gradient is not finite"
                        f"{self.blame(batch)}; {self.checkpoints.last_good()}")


def make_policy(generator: Generator, config) -> None:
    """Make what the recipe trains trainable, with the same start in every process and after a restart."""
    torch.manual_seed(config.train.seed)
    model = config.model
    generator.make_trainable(model.tuning, reference=model.reference, compiled=model.compile,
                             user_features=model.user_features,
                             gradient_checkpointing=model.gradient_checkpointing, **dict(model.lora))


class GeneratorTrainer(Trainer):
    """A loop that trains `generator` as `config.model` and `config.objective` say. watch: of what it learns from, for
    the guard; None where it learns from nothing of its own."""

    watch: Watched | None = None

    def __init__(self, config, generator: Generator, run: RunFolder, accelerator: Accelerator,
                 updates: int | None = None):
        self.generator, self.objective = generator, build_objective(config.objective, loop=config.loop)
        engine = engine_of(accelerator)
        engine.send_home(generator.denoiser)
        make_policy(generator, config)
        on_noised = config.loop == "offline" or self.objective.view in ("noised", "known_noise")
        for remark in remarks(generator, config.model.source, on_noised):
            notice(remark)
        for network in generator.whole_networks():
            engine.shard(network)
        named = generator.trainable_parameters()
        super().__init__(config, named, run, accelerator, updates=updates, engine=engine,
                         reach=GradientReach(named, apart=generator.used_apart, idle=generator.ignores))

    def networks(self) -> list[nn.Module]:
        return self.generator.whole_networks()

    def check_one_pass(self, *conditionings: Conditioning) -> None:
        """Raise UserError where prompts' lengths decide how often the network is called, and all must call it as often.
        """
        if self.engine.sharded and not self.generator.replay.in_one_pass(join(conditionings)):
            raise UserError(f"train.batch_size: prompts of different lengths pass one after another through "
                            f"{self.generator.pipeline_class}, and with sharded training all processes must make the "
                            "same passes; use train.batch_size=1 without guidance, or configs/accelerate/ddp.yaml")

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Generator]:
        """A context with the generator as measured: with averaged weights and without dropout, each process alone.

        What a step held is given back before, and what measuring held after it.
        """
        give_back()
        with self.generator.measuring(), self.state.averaged(), self.engine.gathered():
            yield self.generator
        give_back()
