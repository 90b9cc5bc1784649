"""Settings that several loops share: the model, the optimiser, what is measured and what is kept."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


RewardSpec = str | dict[str, Any]
"""A reward's name, folder or YAML file, or a mapping {kind: ..., ...}; see rewards/registry.py."""


def switch_for_number(annotation: Any, value: Any) -> bool:
    """Whether true or false, which Python takes for 1 and 0, was given where neither is expected."""
    def leaves(each):
        return {each} if not get_args(each) else set().union(*map(leaves, get_args(each)))

    given = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(each, bool) for each in given) and not leaves(annotation) & {bool, Any}


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value, info):
        if switch_for_number(cls.model_fields[info.field_name].annotation, value):
            raise PydanticCustomError("number_expected", "a number is expected")
        return value


class Lora(Settings):
    """Low-rank adapter: rank, alpha (scale is alpha / rank), dropout, and module names (None: the family's own)."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 16.0
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | None = None


class Model(Settings):
    """Which checkpoint, and how it is held in memory.

    source: hub id, local diffusers folder, single `.safetensors` file, or an embedded model (tiny-sd3, tiny-sdxl,
        tiny-wan).
    base: the diffusers folder or hub id that gives a single file its configuration and missing parts.
    precision: arithmetic of the denoiser; `auto` is bf16 where the hardware has it, else fp32.
    attention: `native` lets torch choose; `math` is its plain kernel, `flash` its fused one; xformers is optional.
    resolution: side of pictures and clips in pixels, or [height, width] (None: the model's own).
    frames, fps: of clips (None: the model's own).
    prompt_tokens: length of the T5 prompt for families that have one (None: 256, or what the model takes).
    """

    source: str
    base: str | None = None
    tuning: Literal["lora", "full"] = "lora"
    lora: Lora = Lora()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    attention: Literal["native", "math", "flash", "xformers"] = "native"
    gradient_checkpointing: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    resolution: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    frames: PositiveInt | None = None
    fps: PositiveFloat | None = None
    prompt_tokens: PositiveInt | None = None


class Optim(Settings):
    """Optimiser and learning rate; warm-up in optimiser steps, grad_clip the largest gradient norm."""

    name: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    lr: PositiveFloat = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegative = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    grad_clip: PositiveFloat = 1.0
    ema_decay: Fraction = 0.0


class Evaluation(Settings):
    """Samples and rewards on held-out prompts with fixed seeds; `every` in steps of the loop (0: only before/after).

    reward judges the pictures (any reward; its first dimension counts), features measures their variety (an open_clip
    model); null leaves either out; `also` names more rewards to report, such as one not trained on. The embedded
    tiny-clip and tiny-reward know emoji only.
    """

    every: Annotated[int, Field(ge=0)] = 0
    prompts: str = "emoji:held_out"
    max_prompts: PositiveInt | None = 16
    samples_per_prompt: PositiveInt = 2
    reward: RewardSpec | None = None
    also: tuple[RewardSpec, ...] = ()
    features: str | None = None
    steps: PositiveInt = 28
    guidance_scale: NonNegative = 4.5
    seed: int = 1000


class Guard(Settings):
    """The collapse guard: compares the run with its start, on the prompts and with the judges of `eval`.

    action: `off`; `warn`; `stop` training when the model has collapsed or its reward is being hacked; `rollback` to
    the best acceptable point as well. every: steps of the loop between looks; 0 takes the fewest that keep looking
    within the share `cost` of training's network passes. budget: share of variety that may go; drift, tolerance:
    standard deviations by which style may move and other rewards may fall.
    """

    action: Literal["off", "warn", "stop", "rollback"] = "off"
    every: Annotated[int, Field(ge=0)] = 0
    cost: Annotated[float, Field(gt=0, le=1)] = 0.05
    max_prompts: PositiveInt = 32
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    budget: Annotated[float, Field(gt=0, lt=1)] = 0.15
    drift: PositiveFloat = 2.0
    tolerance: Annotated[float, Field(gt=0.1)] = 0.25


class Output(Settings):
    """The run's folder and what is kept in it.

    checkpoint_every: in optimiser steps, 0: by the clock alone. checkpoint_minutes: one is due, too, when the last is
    so old, 0: never. There is always one at the end. keep_checkpoints: the newest so many, 0: all of them (for
    `visalign evaluate RUN --checkpoints all`).
    """

    folder: str = "runs/train"
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_minutes: NonNegative = 10.0
    keep_checkpoints: Annotated[int, Field(ge=0)] = 2
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)
