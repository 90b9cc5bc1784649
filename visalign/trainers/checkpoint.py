"""Writing and restoring checkpoints: weights as safetensors, the rest readable with weights_only."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from visalign.config import ModelSettings, OutputSettings
from visalign.errors import UserError
from visalign.generators.lora.files import digest_of
from visalign.parallel.engine import Engine
from visalign.parallel.shards import write_parts
from visalign.parallel.sharing import Processes
from visalign.parallel.tensors import laid_out, optimizer_state_laid_out
from visalign.sampling.fingerprint import fingerprint
from visalign.storage.checkpoint_files import (
    BrokenCheckpoint,
    check_complete,
    put_weights,
    read_checkpoint,
    step_of,
)
from visalign.storage.run_folder import CHECKPOINT_LIST, RunFolder
from visalign.storage.weights import write_tensors
from visalign.trainers.stopping import Stopped, asked, postponed

CONTINUE = "the same command with --resume continues"


@dataclass
class TrainingState:
    """Everything that changes while training. Noise and data order depend on the step alone, so no RNG state is stored.

    step: optimiser steps of offline training, epochs of online training. extras: further objects with state_dict.
    """

    parameters: list[tuple[str, nn.Parameter]]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    ema: object | None
    step: int = 0
    extras: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, first: bool = True) -> None:
        """One file of all. first: whether this process is who writes; the others may hold parts of what it does."""
        rest = self._rest()
        if not first:
            return
        write_tensors(folder / "trainable.safetensors", dict(self.parameters))
        torch.save(rest, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps({"step": self.step}))

    def write_parts(self, folder: Path, processes: Processes) -> None:
        """The same where each process holds a part; all must call this, once the first one has made the folder."""
        processes.gather([])
        rest = write_parts({"weights": dict(self.parameters)} | self._rest(), folder)
        if processes.is_first:
            torch.save(rest, folder / "optimizer.pt")
            (folder / "state.json").write_text(json.dumps({"step": self.step}))

    def _rest(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                "ema": self.ema.state_dict() if self.ema else None,
                "extras": {name: each.state_dict() for name, each in self.extras.items()}}

    def read(self, folder: Path, empty: Callable[..., torch.Tensor] = torch.zeros) -> None:
        """Restore from a checkpoint. Raises UserError naming the file that is broken or does not fit."""
        weights, rest = read_checkpoint(folder, empty)
        step = step_of(folder)
        lacking = [name for name in self.extras if name not in rest["extras"]]
        if lacking or bool(self.ema) != bool(rest["ema"]):
            raise UserError(f"checkpoint {folder}: holds no {', '.join(lacking) or 'moving average'} of this run")
        put_weights(self.parameters, weights, folder)
        self.step = step
        steps = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.optimizer.load_state_dict(optimizer_state_laid_out(rest["optimizer"], steps))
        self.schedule.load_state_dict(rest["schedule"])
        if self.ema:
            averages = rest["ema"].get("shadow_params", ())
            self.ema.load_state_dict(rest["ema"] | {"shadow_params": [
                laid_out(value, p) for value, (_, p) in zip(averages, self.parameters, strict=False)]})
            self.ema.to(self.parameters[0][1].device)  # it keeps the tensors it is given, and those lie on the CPU
        for name, each in self.extras.items():
            each.load_state_dict(rest["extras"][name])

    def fault(self) -> str | None:
        """The first trainable weight that is not finite, or None."""
        return next((name for name, p in self.parameters if not p.isfinite().all()), None)

    def advance(self, skipped: bool = False) -> None:
        """After an optimiser step: advance schedule and moving average, unless the step was skipped."""
        if skipped:
            return
        self.schedule.step()
        if self.ema:
            self.ema.step([p for _, p in self.parameters])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the trainable weights are the moving average, when the run keeps one."""
        if self.ema is None:
            yield
            return
        parameters = [p for _, p in self.parameters]
        with postponed():
            self.ema.store(parameters)
            self.ema.copy_to(parameters)
        try:
            yield
        finally:
            with postponed():
                self.ema.restore(parameters)


def check_model(run: RunFolder, modules: list[nn.Module], name: str) -> None:
    """Raise UserError, beginning with `name`, when a resumed run has other weights than it was started with."""
    dtype = str(next(modules[0].parameters()).dtype).removeprefix("torch.")  # it shows in a fingerprint
    found = hashlib.sha256("".join(map(fingerprint, modules)).encode()).hexdigest()
    if run.started_from(f"weights in {dtype}", found) != found:
        raise UserError(f"{name}: its weights are not those that the run in {run.path} was started with, so it cannot "
                        "be resumed; put them back or use a new folder")


def check_loras(run: RunFolder, settings: ModelSettings) -> None:
    """Raise UserError when a LoRA that a resumed run began with is another than it was then."""
    for path in (*([settings.lora.start] if settings.lora.start else []), *(each.path for each in settings.loras)):
        found = digest_of(Path(path).expanduser())
        if run.started_from(f"lora {path}", found) != found:
            raise UserError(f"lora {path}: is not the file that the run in {run.path} was started with, so the run "
                            "cannot be resumed; put that file back or use a new folder")


@dataclass
class Checkpoints:
    """Saves a run's state when it is due: every `output.checkpoint_every` steps, every `checkpoint_minutes`, at `last`,
    and when a signal asks the run to stop."""

    state: TrainingState
    run: RunFolder
    engine: Engine
    output: OutputSettings
    last: int

    def __post_init__(self):
        self._saved, self.accelerator = time.monotonic(), self.engine.accelerator
        if self.accelerator.scaler is not None:  # fp16's loss scale adapts slowly
            self.state.extras["loss_scale"] = self.accelerator.scaler

    def save(self) -> None:
        """Raises UserError when it cannot be written, or would store weights that are not finite."""
        if self.engine.on_all():
            self._write()
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
        fault = self.state.fault()
        if fault:
            raise UserError(f"step {self.state.step}: the trained weights are no longer finite, {fault} first; "
                            f"{self.last_good()} (a lower optim.lr usually helps)")
        with postponed():
            write = partial(self.state.write_parts, processes=self.engine.processes) if self.engine.sharded else \
                partial(self.state.write, first=self.engine.processes.is_first)
            self.run.save_checkpoint(self.state.step, write, self.output.keep_checkpoints)
        self._saved = time.monotonic()

    def after_step(self) -> None:
        """Save what is due after a step. Raises Stopped, with the step kept, when a signal asked for the end."""
        every, step = self.output.checkpoint_every, self.state.step
        late, signal = self._agreed()
        if signal or late or step == self.last or (every and step % every == 0):
            self.save()
        if signal:
            raise Stopped(signal)

    def _agreed(self) -> tuple[bool, int]:
        """Whether the last checkpoint is too old and which signal came, equal in every process."""
        minutes = self.output.checkpoint_minutes
        late = self.accelerator.is_main_process and 0 < 60 * minutes <= time.monotonic() - self._saved
        if self.accelerator.num_processes == 1:
            return late, asked()
        mine = torch.tensor([[int(late), asked()]], device=self.accelerator.device)
        late, signal = self.accelerator.gather(mine).amax(0).tolist()
        return bool(late), signal

    @property
    def is_kept(self) -> bool:
        """Whether the newest checkpoint is of this step."""
        kept = self.run.checkpoints()
        return bool(kept) and kept[-1].name == f"step-{self.state.step:08d}"

    def save_if_new(self) -> None:
        """Save unless the newest checkpoint is of this step."""
        kept = self.engine.processes.told_by_first(lambda: self.is_kept)
        if self.engine.on_all() and not kept:
            self._write()
        self.accelerator.wait_for_everyone()

    def stop_in_between(self) -> None:
        """Raise Stopped within a step when a signal asked for the end and only this step is lost."""
        if asked() and self.is_kept and not self.engine.together:  # others would wait for this process's passes
            raise Stopped(asked())

    @contextlib.contextmanager
    def kept_on_stop(self) -> Iterator[None]:
        """A context in which a signal leaves a checkpoint of the last complete step; raises Stopped then."""
        try:
            yield
        except Stopped as stop:
            with postponed():
                if self.engine.on_all() and self.state.step and not self.is_kept and self.engine.all_stop():
                    self._write()
            kept = f"step {self.state.step} is kept" if self.state.step else "before the first step"
            raise Stopped(stop.number, f"stopped, {kept} in {self.run.path}; {CONTINUE}") from None
        except Exception:
            gone = self.engine.together or not self.accelerator.is_main_process
            if asked() and gone:  # the first process, or whoever passes are made with
                raise Stopped(asked()) from None
            raise

    def resume(self) -> None:
        """Continue from the newest intact checkpoint of the run, if there is one; broken ones are set aside, and named.

        Raises UserError when there are checkpoints and none is intact, or when the run is already longer than
        requested.
        """
        broken: list[tuple[Path, BrokenCheckpoint]] = []
        folders = self.run.checkpoint_folders()
        for folder in reversed(folders):
            try:
                self._check_complete(folder)
                self.state.read(folder, self.engine.empty)
                break
            except BrokenCheckpoint as error:
                broken.append((folder, error))
        self._check_equal()
        if broken and len(broken) == len(folders):
            older = "no older one is intact either" if broken[1:] else "there is no older one"
            raise UserError(f"{broken[0][1]}; {older}; start again in a new folder")
        if self.state.step > self.last:
            raise UserError(f"output.folder {self.run.path}: the run is at step {self.state.step} already, beyond the "
                            f"{self.last} requested; nothing to resume")
        if self.accelerator.is_main_process:
            for folder, error in broken:
                tqdm.write(f"visalign: {error}; it is now {self.run.set_aside(folder).name}, and the run goes on from "
                           f"{folders[len(folders) - len(broken) - 1].name}")
        self.run.forget_after(self.state.step)

    def _check_equal(self) -> None:
        """Raise UserError in all processes when they have not read the same checkpoint."""
        files = self.run.path / "checkpoints" / f"step-{self.state.step:08d}" / CHECKPOINT_LIST
        found = self.engine.processes.gather([(self.state.step, files.read_text() if files.is_file() else "")])
        if len(set(found)) == 1:
            return
        steps = [step for step, _ in found]
        said = f"steps {', '.join(map(str, steps))} in the order of the processes" if len(set(steps)) > 1 else \
            f"different files of step {steps[0]}"
        raise UserError(f"output.folder {self.run.path}: processes found different checkpoints, {said}; let all use "
                        "one folder on a disk that they share")

    def _check_complete(self, folder: Path) -> None:
        """Raise BrokenCheckpoint; of a sharded run's many files one process looks for all."""
        if not self.engine.sharded:
            check_complete(folder)
        elif said := self.engine.processes.told_by_first(lambda: said_of(folder)):
            raise BrokenCheckpoint(said)

    def last_good(self) -> str:
        """Which checkpoint to go back to, in words."""
        return self.run.last_good()


def said_of(folder: Path) -> str:
    """Why a checkpoint is broken, '' when it is not."""
    try:
        check_complete(folder)
    except BrokenCheckpoint as error:
        return str(error)
    return ""
