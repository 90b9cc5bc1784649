"""A language run as this package sees it, around TRL's loop: measured, guarded and logged as every other run.

Cadence and guard ask a trainer for its step, its weights, a context to measure in, and for `fit`, which calls them
back after each step. Here `fit` is TRL's loop, and the calls come from its callback.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PrinterCallback, TrainerCallback

from visalign.config import LanguageSettings
from visalign.errors import UserError
from visalign.language.checkpoints import kept_checkpoints, newest_checkpoint, prune, step_of_folder
from visalign.language.sampling import Answerer
from visalign.media.samples import Sample
from visalign.parallel.engine import Engine
from visalign.parallel.sharing import doing
from visalign.storage.files import full_disk_told
from visalign.storage.run_folder import RunFolder
from visalign.trainers.checkpoint import CONTINUE
from visalign.trainers.stopping import Stopped, asked, postponed


@dataclass
class LanguageState:
    """Step and trained weights; there is no moving average."""

    parameters: list[tuple[str, nn.Parameter]]
    step: int = 0
    ema: None = None

    def averaged(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()


class StepNotes:
    """Metrics of the batches of a step, noted by the loss and read when the step is logged; figures: numbers of the
    whole step, the same in all processes."""

    def __init__(self):
        self.batches: list[dict[str, Tensor]] = []
        self.figures: dict[str, float] = {}

    def keep(self, metrics: dict[str, Tensor]) -> None:
        """A batch's metrics {name: [B]}."""
        self.batches.append({name: values.detach().float() for name, values in metrics.items()})

    def reduced(self) -> dict[str, float]:
        """The figures, and means over the step's batches and all processes; the notes are empty then."""
        figures, self.figures = self.figures, {}
        found: dict[str, list[Tensor]] = {}
        for batch in self.batches:
            for name, values in batch.items():
                found.setdefault(name, []).append(values.double().cpu())
        self.batches.clear()
        mine = {name: (torch.cat(values).sum().item(), sum(map(len, values))) for name, values in found.items()}
        told = gather_object([mine])  # a process may have none of a name
        return figures | {name: math.fsum(each[name][0] for each in told if name in each)
                          / sum(each[name][1] for each in told if name in each)
                          for name in dict.fromkeys(name for each in told for name in each)}


@dataclass
class LanguageTrainer:
    """loop: TRL's trainer. notes: where its loss leaves metrics. answerer: the policy with its tokenizer.
    held_out_numbers: what is measured on held-out pairs and on `last_answers`, the held-out answers drawn last, and
    logged beside those. whole: steps that learn from the same answers; a checkpoint waits for the last of them, since
    the answers are not in it."""

    config: LanguageSettings
    run: RunFolder
    loop: Any
    notes: StepNotes
    answerer: Answerer
    objective: Any
    held_out_numbers: Callable[[Sequence[Sample]], dict[str, Any]] = lambda answers: {}
    last_answers: Sequence[Sample] = ()
    whole: int = 1

    unit: ClassVar[str] = "step"
    watch: ClassVar[None] = None

    def __post_init__(self):
        self.loop.remove_callback(PrinterCallback)  # which prints every row
        self.accelerator = self.loop.accelerator
        self.engine = Engine(self.accelerator)
        self.state = LanguageState([(name, parameter) for name, parameter in self.loop.model.named_parameters()
                                    if parameter.requires_grad])
        self.checkpoints = self
        self._continue_from = None

    def held_out_metrics(self) -> dict[str, Any]:
        return self.held_out_numbers(self.last_answers)

    def remember(self, answers: Sequence[Sample]) -> None:
        self.last_answers = answers

    @contextlib.contextmanager
    def measuring(self) -> Iterator[Answerer]:
        """A context with the policy as it is measured; torch's random numbers are afterwards what they were."""
        state = torch.get_rng_state()
        yield self.answerer
        torch.set_rng_state(state)

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """A context in which the run continues from its newest checkpoint."""
        self._continue_from = newest_checkpoint(self.run, self.config.train.steps)
        self.state.step = step_of_folder(self._continue_from) if self._continue_from else 0
        self.run.forget_after(self.state.step)
        self.run.log({"kind": "start", "step": self.state.step, "processes": self.accelerator.num_processes})
        with full_disk_told(f"run {self.run.path}", self.run.path, CONTINUE):
            yield

    def fit(self, on_unit: Callable[[int], bool]) -> bool:
        """Train to config.train.steps; whether `on_unit` ended the run. Raises Stopped, with the step kept, when a
        signal asks for the end."""
        follow = FollowLoop(self, on_unit)
        self.loop.add_callback(follow)
        with postponed():
            if self.state.step < self.config.train.steps:
                self.loop.train(resume_from_checkpoint=str(self._continue_from) if self._continue_from else None)
            if asked():
                raise Stopped(asked(), f"stopped, step {self.state.step} is kept in {self.run.path}; {CONTINUE}")
        return follow.ended

    def save_if_new(self) -> None:
        """Save unless the newest checkpoint is of this step."""
        kept = kept_checkpoints(self.run)
        if not kept or step_of_folder(kept[-1]) != self.state.step:
            self.loop._save_checkpoint(self.loop.model, trial=None)


class FollowLoop(TrainerCallback):
    """Called by TRL's loop: the progress bar, rows of metrics, checkpoints that are due, measurements and the end."""

    def __init__(self, trainer: LanguageTrainer, on_unit: Callable[[int], bool]):
        self.trainer, self.on_unit = trainer, on_unit
        self.ended = False
        self.bar: tqdm | None = None
        self.began = self.saved = time.monotonic()

    def on_train_begin(self, args, state, control, **given):
        total, first = self.trainer.config.train.steps, self.trainer.accelerator.is_main_process
        self.bar = tqdm(total=total, initial=state.global_step, desc="training", unit="step", disable=not first)
        doing(f"step {state.global_step + 1}")

    def on_pre_optimizer_step(self, args, state, control, **given):
        if self.trainer.accelerator.scaler is not None:
            return  # with fp16 infinite gradients are how the loss scale is found
        bad = next((name for name, p in self.trainer.state.parameters
                    if p.grad is not None and not p.grad.isfinite().all()), None)
        if bad:
            raise UserError(f"step {state.global_step + 1}: the gradient of {bad} is not finite (a lower optim.lr "
                            f"usually helps); {self._last_good()}")

    def _last_good(self) -> str:
        kept = kept_checkpoints(self.trainer.run)
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no earlier checkpoint"

    def on_step_end(self, args, state, control, **given):
        trainer, output = self.trainer, self.trainer.config.output
        trainer.state.step = step = state.global_step
        doing(f"step {step + 1}")
        late, stop = self._agreed() if step % trainer.whole == 0 else (False, False)
        every = output.checkpoint_every
        control.should_save = bool(step == trainer.config.train.steps or late or (every and step % every == 0))
        if not stop:
            self.ended = self.on_unit(step)
        if stop or self.ended:
            control.should_save = control.should_training_stop = True
        return control

    def _agreed(self) -> tuple[bool, bool]:
        """Whether the last checkpoint is too old, and whether a signal asked for the end, equal in every process."""
        minutes = self.trainer.config.output.checkpoint_minutes
        late = 0 < 60 * minutes <= time.monotonic() - self.saved
        told = self.trainer.engine.processes.gather([(late, bool(asked()))])
        return told[0][0], any(signal for _, signal in told)

    def on_log(self, args, state, control, logs: dict[str, float], **given):
        if "loss" not in logs or "train_runtime" in logs:
            return
        row = {name: value for name, value in logs.items()
               if name not in ("learning_rate", "epoch") and isinstance(value, int | float)}
        row |= self.trainer.notes.reduced()
        row |= {"loss": logs["loss"], "lr": logs.get("learning_rate", 0.0)}
        now = time.monotonic()
        self.trainer.run.log({"kind": "train", "step": state.global_step, **row, "seconds": now - self.began})
        self.trainer.accelerator.log(row, step=state.global_step)
        self.began = now
        shown = {"loss": "loss", "implicit_accuracy": "acc", "reward": "reward"}
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix_str(" ".join(f"{short} {row[name]:.3f}" for name, short in shown.items() if name in row))

    def on_save(self, args, state, control, **given):
        self.saved = time.monotonic()
        prune(self.trainer.run, self.trainer.config.output.keep_checkpoints)

    def on_train_end(self, args, state, control, **given):
        self.bar.close()
