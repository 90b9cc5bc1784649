"""Optimiser, learning-rate schedule and moving average, from settings; gradients of several processes."""

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import nn

from visalign.config import OptimSettings
from visalign.errors import UserError

MOMENTS = {"adamw": 8, "adamw8bit": 2, "adafactor": 0.1}
"""Bytes of an optimiser's state per trained weight."""


def build_optimizer(settings: OptimSettings, parameters: list[nn.Parameter] | list[dict]) -> torch.optim.Optimizer:
    """AdamW, 8-bit AdamW (bitsandbytes) or Adafactor, of parameters or of groups with learning rates of their own."""
    if settings.name == "adamw":
        return torch.optim.AdamW(parameters, settings.lr, betas=settings.betas, weight_decay=settings.weight_decay)
    if settings.name == "adafactor":
        from transformers import Adafactor

        return Adafactor(parameters, lr=settings.lr, weight_decay=settings.weight_decay, scale_parameter=False,
                         relative_step=False, warmup_init=False)
    check_optimizer(settings)
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, settings.lr, betas=settings.betas,
                                        weight_decay=settings.weight_decay)


def check_optimizer(settings: OptimSettings) -> None:
    """Raise UserError when the optimiser's package is missing."""
    import importlib.util

    if settings.name == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError("optim.name adamw8bit needs the package bitsandbytes: pip install bitsandbytes")


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


def build_ema(settings: OptimSettings, parameters: list[nn.Parameter]) -> Average | None:
    """The average of the trainable parameters, or None when ema_decay is 0."""
    return Average(parameters, settings.ema_decay, settings.ema_every) if settings.ema_decay else None


def sum_gradients(parameters: list[nn.Parameter], accelerator: Accelerator) -> None:
    """Every process ends with the sum of all processes' gradients."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "sum")
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad.copy_(part.view_as(parameter))
