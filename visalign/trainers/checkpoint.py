"""What a checkpoint holds, and putting it back: weights as safetensors, the rest readable with weights_only."""

import contextlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from visalign.config import Output
from visalign.errors import UserError
from visalign.runs import RunFolder
from visalign.weights import write_tensors


@dataclass
class TrainingState:
    """Everything that changes while training. Noise and data order depend on the step alone, so no RNG is kept.

    step: optimiser steps of offline training, epochs of online training. extras: further objects with state_dict.
    """

    parameters: list[tuple[str, nn.Parameter]]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    ema: object | None
    step: int = 0
    extras: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        write_tensors(folder / "trainable.safetensors", dict(self.parameters))
        torch.save({"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict(),
                    "ema": self.ema.state_dict() if self.ema else None,
                    "extras": {name: each.state_dict() for name, each in self.extras.items()}}, folder / "optimizer.pt")
        (folder / "state.json").write_text(json.dumps({"step": self.step}))

    def read(self, folder: Path) -> None:
        """Restore from a checkpoint. Raises UserError naming the file that is broken or does not fit."""
        weights, rest = read_checkpoint(folder)
        self.step = step_of(folder)
        put_weights(self.parameters, weights, folder)
        self.optimizer.load_state_dict(rest["optimizer"])
        self.schedule.load_state_dict(rest["schedule"])
        if self.ema and rest["ema"]:
            self.ema.load_state_dict(rest["ema"])
        for name, each in self.extras.items():
            each.load_state_dict(rest["extras"][name])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Within: the trainable weights are the moving average, when the run keeps one."""
        if self.ema is None:
            yield
            return
        parameters = [p for _, p in self.parameters]
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        try:
            yield
        finally:
            self.ema.restore(parameters)


def read_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Trainable weights and the rest. Raises UserError naming the folder when a file is broken."""
    try:
        weights = load_file(folder / "trainable.safetensors")
        return weights, torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError, LookupError, EOFError,
            pickle.UnpicklingError) as error:
        raise UserError(f"checkpoint {folder}: cannot be read ({' '.join(str(error).split())[:150]})") from None


def step_of(folder: Path) -> int:
    try:
        return json.loads((folder / "state.json").read_text())["step"]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"checkpoint {folder}: cannot be read ({' '.join(str(error).split())[:150]})") from None


def load_policy(parameters: list[tuple[str, nn.Parameter]], folder: Path) -> None:
    """Put back the weights a checkpoint samples with: the moving average where the run kept one."""
    weights, rest = read_checkpoint(folder)
    put_weights(parameters, weights, folder)
    if rest["ema"]:
        with torch.no_grad():
            for (_, parameter), average in zip(parameters, rest["ema"]["shadow_params"], strict=True):
                parameter.copy_(average)


def put_weights(parameters: list[tuple[str, nn.Parameter]], weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy weights into parameters of the same names. Raises UserError when the names differ."""
    mine = dict(parameters)
    if mine.keys() != weights.keys():
        odd = sorted(mine.keys() ^ weights.keys())[0]
        raise UserError(f"checkpoint {folder}: made for other trainable weights, {odd} is on one side only")
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(weights[name])


@dataclass
class Checkpoints:
    """Saves a run's state when it is due: every `output.checkpoint_every` steps and at `last`."""

    state: TrainingState
    run: RunFolder
    accelerator: Accelerator
    output: Output
    last: int

    def save(self) -> None:
        if self.accelerator.is_main_process:
            self.run.save_checkpoint(self.state.step, self.state.write, self.output.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def save_if_due(self) -> None:
        every, step = self.output.checkpoint_every, self.state.step
        if step == self.last or (every and step % every == 0):
            self.save()

    def save_if_new(self) -> None:
        """Save unless the newest checkpoint is of this step."""
        if self.accelerator.is_main_process:  # it alone looks: for the others the answer may change while it writes
            kept = self.run.checkpoints()
            if not kept or kept[-1].name != f"step-{self.state.step:08d}":
                self.run.save_checkpoint(self.state.step, self.state.write, self.output.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def resume(self) -> None:
        """Continue from the newest checkpoint of the run, if there is one."""
        kept = self.run.checkpoints()
        if kept:
            self.state.read(kept[-1])
        self.run.forget_after(self.state.step)

    def last_good(self) -> str:
        """Where to go back to, in words."""
        kept = self.run.checkpoints()
        return f"the last good checkpoint is {kept[-1]}" if kept else "there is no earlier checkpoint"
