"""Settings of the optimiser."""

import math
from typing import Any, Literal

from pydantic import model_validator

from visalign.config.common import ModelSettings, Settings, Text
from visalign.validation.ranges import Few, Fraction, Often, Positive, Rate, Weight


class OptimSettings(Settings):
    """Optimiser and learning rate; warm-up in optimiser steps, grad_clip the largest gradient norm (null: any).

    name: the first three and `adafactor` are AdamW with less and less state; `lion` wants a tenth of AdamW's learning
    rate; `prodigy` finds the rate itself and multiplies it by lr; `adamw_schedulefree` averages its weights instead of
    having a schedule; `muon` is for matrices of a full fine-tune.
    lr: left out, it is the optimiser's own: 1 for prodigy, 1e-5 for lion, else 1e-4. betas: of those that have any.
    options: further arguments of the optimiser's constructor, by name.
    fused_backward: in a full fine-tune each weight steps as soon as the backward pass has its gradient, so that the
    gradients are never held all together; nothing can clip them together then.
    ema_decay: of the moving average that is measured and exported (0: none), renewed every `ema_every` optimiser steps.
    """

    name: Literal["adamw", "adamw8bit", "paged_adamw8bit", "adafactor", "lion", "lion8bit", "came", "prodigy",
                  "adamw_schedulefree", "muon"] = "adamw"
    lr: Rate = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: Weight = 0.01
    options: dict[Text, Any] = {}
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Often = 0
    grad_clip: Positive | None = 1.0
    fused_backward: bool = False
    ema_decay: Fraction = 0.0
    ema_every: Few = 1

    @property
    def largest_norm(self) -> float:
        """To which gradients are clipped."""
        return math.inf if self.grad_clip is None else self.grad_clip

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, raw):
        return _OWN_DEFAULTS.get(raw.get("name"), {}) | raw if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _consistent(self):
        if self.ema_every > 1 and not self.ema_decay:
            raise ValueError(f"optim.ema_every {self.ema_every} does nothing without optim.ema_decay")
        if self.fused_backward and self.grad_clip is not None:
            raise ValueError(f"optim.grad_clip {self.grad_clip:g}: optim.fused_backward uses each gradient up before "
                             "the norm of all is known; set optim.grad_clip=null (adafactor and came limit each update "
                             "themselves)")
        if self.name == "prodigy" and not 0.1 <= self.lr <= 1:
            raise ValueError(f"optim.lr {self.lr:g}: prodigy finds the learning rate itself and multiplies it by this; "
                             "leave it out, or set optim.lr=1")
        if self.name == "adamw_schedulefree" and self.schedule != "constant":
            raise ValueError(f"optim.schedule {self.schedule}: adamw_schedulefree takes the place of a schedule; set "
                             "optim.schedule=constant")
        if self.name == "adamw_schedulefree" and self.ema_decay:
            raise ValueError(f"optim.ema_decay {self.ema_decay:g}: adamw_schedulefree averages its weights itself; "
                             "leave it out")
        return self


_OWN_DEFAULTS = {"prodigy": {"lr": 1.0}, "lion": {"lr": 1e-5, "betas": (0.9, 0.99)},
                 "lion8bit": {"lr": 1e-5, "betas": (0.9, 0.99)}}


def refuse_fused(optim: OptimSettings, why: str) -> None:
    """Raise ValueError when weights would step before their gradient is whole."""
    if optim.fused_backward:
        raise ValueError(f"optim.fused_backward makes each backward pass a step, and {why}; leave it out")


def check_tuned(model: ModelSettings, optim: OptimSettings) -> None:
    """Raise ValueError when the optimiser, or where weights lie, is for another kind of tuning."""
    if model.offload == "blocks" and model.tuning != "full":
        raise ValueError("model.offload blocks moves what never learns, and an adapter learns inside of every block; "
                         "use model.offload=frozen, with model.quantization where that is not enough")
    if optim.name == "muon" and model.tuning != "full":
        raise ValueError("optim.name muon is for the matrices of a full fine-tune; with model.tuning "
                         f"{model.tuning} use adamw")
    if optim.fused_backward and model.tuning != "full":
        raise ValueError("optim.fused_backward spares the gradients of a full fine-tune; those of an adapter are "
                         "small, so leave it out")
