"""Optimiser, learning-rate schedule and moving average, from settings."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn

from visalign.config import OptimSettings
from visalign.errors import UserError, check_package, nearest


@dataclass(frozen=True)
class OptimizerKind:
    """A class of a library. moments: bytes of its state per trained weight, counted on large matrices.

    package: what pip installs it as, None where it comes with visalign. betas: how many it takes. always: arguments
    that are given unless `optim.options` has others. alone: whether a weight's step needs that weight's gradient only.
    """

    module: str
    name: str
    moments: float
    package: str | None = None
    betas: int = 2
    always: dict[str, Any] = field(default_factory=dict)
    alone: bool = True

    def loaded(self) -> type[torch.optim.Optimizer]:
        return getattr(importlib.import_module(self.module), self.name)

    def arguments(self, settings: OptimSettings) -> dict[str, Any]:
        """Of its constructor, beside the parameters."""
        betas = (*settings.betas, *_THIRD_BETA)[:self.betas]
        return {"lr": settings.lr, "weight_decay": settings.weight_decay} | ({"betas": betas} if betas else {}) | \
            self.always | settings.options


_THIRD_BETA = (0.9999,)
"""Of CAME's confidence, as published."""

OPTIMIZERS = {
    "adamw": OptimizerKind("torch.optim", "AdamW", 8),
    "adamw8bit": OptimizerKind("bitsandbytes.optim", "AdamW8bit", 2.05, "bitsandbytes"),
    "paged_adamw8bit": OptimizerKind("bitsandbytes.optim", "PagedAdamW8bit", 2.05, "bitsandbytes"),
    "lion": OptimizerKind("timm.optim", "Lion", 4, "timm"),
    "lion8bit": OptimizerKind("bitsandbytes.optim", "Lion8bit", 1.03, "bitsandbytes"),
    "adafactor": OptimizerKind("transformers", "Adafactor", 0.08, betas=0, always={
        "scale_parameter": False, "relative_step": False, "warmup_init": False}),
    "came": OptimizerKind("came_pytorch", "CAME", 4.1, "came-pytorch", betas=3),
    "prodigy": OptimizerKind("prodigyopt", "Prodigy", 16, "prodigyopt", alone=False),
    "adamw_schedulefree": OptimizerKind("schedulefree", "AdamWScheduleFree", 8, "schedulefree", alone=False),
    "muon": OptimizerKind("timm.optim", "Muon", 4.1, "timm"),
}
"""By `optim.name`. Muon steps matrices so and all else as AdamW."""

MOMENTS = {name: kind.moments for name, kind in OPTIMIZERS.items()}
"""Bytes of an optimiser's state per trained weight."""


def build_optimizer(settings: OptimSettings, parameters: list[nn.Parameter] | list[dict]) -> torch.optim.Optimizer:
    """The optimiser, of parameters or of groups with learning rates of their own, ready to train."""
    kind = OPTIMIZERS[settings.name]
    optimizer = kind.loaded()(parameters, **kind.arguments(settings))
    if keeps_average(optimizer):
        optimizer.train()
    return optimizer


def keeps_average(optimizer: torch.optim.Optimizer) -> bool:
    """Whether its trained weights are others than those to be measured (schedule-free methods)."""
    return hasattr(optimizer, "eval")


def state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    """The tensors that an optimiser keeps."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, torch.Tensor))


def check_optimizer(settings: OptimSettings, scales: tuple[float, ...] = (1.0,)) -> None:
    """Raise UserError when the optimiser's package is missing or does not take these settings, by one trial step.

    scales: of the learning rates of the groups it will be given.
    """
    kind = OPTIMIZERS[settings.name]
    check_package(f"optim.name {settings.name}", kind.module.partition(".")[0], kind.package)
    try:
        constructor = kind.loaded()
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"optim.name {settings.name}: the package {kind.package} is installed and cannot be used "
                        f"({reason}); pip install -U {kind.package}, or choose another optimiser") from None
    if settings.fused_backward and not kind.alone:
        raise UserError(f"optim.fused_backward: a step of {settings.name} looks at all gradients together; use "
                        "adafactor, came, lion or one of the AdamW's")
    _check_options(settings, inspect.signature(constructor.__init__).parameters.keys() - {"self", "args"})
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "lr": settings.lr * scale} for scale in scales]
    try:
        optimizer = build_optimizer(settings, groups)
        for group in groups:
            group["params"][0].grad = torch.ones(2, 2)
        optimizer.step()
    except (ValueError, TypeError, AssertionError, RuntimeError) as error:
        told = f" with optim.options {settings.options}" if settings.options else ""
        raise UserError(f"optim: {settings.name} cannot be used so{told} ({' '.join(str(error).split())[:160]})"
                        ) from None


def _check_options(settings: OptimSettings, allowed: set[str]) -> None:
    own = {"lr", "betas", "weight_decay"}
    for key in settings.options:
        if key in own:
            raise UserError(f"optim.options.{key}: is a setting of its own, optim.{key}")
        if key not in allowed - own - {"params"}:
            raise UserError(f"optim.options.{key}: {settings.name} has no such option"
                            f"{nearest(key, allowed - own - {'params'})}")


def build_schedule(settings: OptimSettings, optimizer: torch.optim.Optimizer, steps: int):
    """Learning rate by optimiser step, with warm-up."""
    from diffusers.optimization import get_scheduler

    name = "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=steps)


class Average(EMAModel):
    """diffusers' moving average of parameters, updated at every `every`-th optimiser step only (Flow-GRPO: 8)."""

    def __init__(self, parameters: list[nn.Parameter], decay: float, every: int):
        super().__init__(parameters, decay=decay)
        self.every = every

    def step(self, parameters) -> None:
        if (self.optimization_step + 1) % self.every:
            self.optimization_step += 1
        else:
            super().step(parameters)


class OptimizersAverage:
    """The average that a schedule-free optimiser keeps of its weights, used as the moving average is."""

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self._kept: list[torch.Tensor] = []

    def step(self, parameters) -> None:
        """The optimiser has done it."""

    def store(self, parameters: list[nn.Parameter]) -> None:
        self._kept = [parameter.detach().cpu().clone() for parameter in parameters]

    def copy_to(self, parameters: list[nn.Parameter]) -> None:
        self.optimizer.eval()

    @torch.no_grad()
    def restore(self, parameters: list[nn.Parameter]) -> None:
        """The optimiser's own way back would lose the last bits."""
        self.optimizer.train()
        for parameter, kept in zip(parameters, self._kept, strict=True):
            parameter.copy_(kept)
        self._kept = []

    def state_dict(self) -> dict:
        return {"kept by": "the optimizer"}

    def load_state_dict(self, state: dict) -> None:
        """The optimiser's own state has it."""

    def to(self, device: torch.device) -> None:
        """It lies where the optimiser's state does."""


def build_ema(settings: OptimSettings, parameters: list[nn.Parameter],
              optimizer: torch.optim.Optimizer | None = None) -> Average | OptimizersAverage | None:
    """The average of the trainable parameters, the optimiser's own where it has one; None when there is none."""
    if optimizer is not None and keeps_average(optimizer):
        return OptimizersAverage(optimizer)
    return Average(parameters, settings.ema_decay, settings.ema_every) if settings.ema_decay else None
