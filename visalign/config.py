"""Every setting of a run: typed, documented, validated before a model is loaded.

A recipe is YAML data, never code. Unknown keys are errors that name the nearest allowed key. `key=value` overrides
use dots for nesting (`optim.lr=1e-4`) and `model=NAME` is short for `model.source=NAME`.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from visalign.errors import UserError, nearest

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Lora(Settings):
    """Low-rank adapter: rank, alpha (scale is alpha / rank), dropout, and module names (None: the family's own)."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = 16.0
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | None = None


class Model(Settings):
    """Which checkpoint, and how it is held in memory.

    source: hub id, local diffusers folder, single `.safetensors` file, or an embedded model (tiny-sd3, tiny-sdxl).
    base: the diffusers folder or hub id that gives a single file its configuration and missing parts.
    precision: arithmetic of the denoiser; `auto` is bf16 where the hardware has it, else fp32.
    attention: `native` lets torch choose; `math` is its plain kernel, `flash` its fused one; xformers is optional.
    resolution: side of the training pictures in pixels (None: the model's own).
    prompt_tokens: length of the T5 prompt for families that have one.
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
    resolution: PositiveInt | None = None
    prompt_tokens: PositiveInt = 256


class Feedback(Settings):
    """Make the pairs instead of reading them: sample each prompt several times, let a reward pick best and worst.

    prompts: a text file (one a line) or `emoji:train` / `emoji:held_out`.
    pairs_per_prompt: the best against the worst, then the second best against the second worst, ...
    """

    prompts: str = "emoji:train"
    max_prompts: PositiveInt | None = None
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    pairs_per_prompt: PositiveInt = 1
    reward: str = "tiny-clip"
    steps: PositiveInt = 16
    guidance_scale: NonNegative = 1.0


class Data(Settings):
    """Where preference pairs come from.

    path: a file or folder of a public format, or a `datasets` hub id; or leave it out and set `feedback`.
    score_with: a reward that scores both pictures of a pair (needed by reward-weighted objectives).
    rerank: flip pairs where that reward disagrees with the label (AI feedback).
    holdout: share of the prompts kept for measuring implicit accuracy.
    cache: folder for latents and text embeddings; safe to share between runs and processes.
    """

    path: str | None = None
    format: Literal["auto", "pickapic", "hpd", "table", "hub"] = "auto"
    split: str = "train"
    image_root: str | None = None
    feedback: Feedback | None = None
    score_with: str | None = None
    rerank: bool = False
    max_pairs: PositiveInt | None = None
    holdout: Fraction = 0.05
    caption_dropout: Fraction = 0.0
    cache: str = "~/.cache/visalign/latents"


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


class Train(Settings):
    """Length and shape of training; batch_size counts pairs per process, steps are optimiser steps."""

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 4
    gradient_accumulation: PositiveInt = 1
    timestep_sampling: Literal["uniform", "logit_normal", "shifted"] = "uniform"
    timestep_shift: PositiveFloat = 1.0
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Evaluation(Settings):
    """Samples and rewards on held-out prompts with fixed seeds; `every` in optimiser steps (0: only before/after).

    reward judges the pictures, features measures their variety: each an open_clip folder or the embedded tiny-clip
    (which knows emoji only), or null to leave that out.
    """

    every: Annotated[int, Field(ge=0)] = 0
    prompts: str = "emoji:held_out"
    max_prompts: PositiveInt | None = 16
    samples_per_prompt: PositiveInt = 2
    reward: str | None = None
    features: str | None = None
    steps: PositiveInt = 28
    guidance_scale: NonNegative = 4.5
    seed: int = 1000


class Output(Settings):
    """The run's folder and what is kept in it; checkpoint_every in optimiser steps (0: only the end)."""

    folder: str = "runs/train"
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    keep_checkpoints: PositiveInt = 2
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)


class Config(Settings):
    """One run. `objective` is {name: ..., and that method's own settings}."""

    model: Model
    data: Data = Data()
    objective: dict[str, Any]
    optim: Optim = Optim()
    train: Train = Train()
    eval: Evaluation = Evaluation()
    output: Output = Output()


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> Config:
    """Read and validate a recipe.

    Raises UserError with one sentence naming the file and key, what was given, and what is allowed.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"config {path}: there is no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: not readable as YAML ({' '.join(str(error).split())})") from None
    except OSError as error:
        raise UserError(f"config {path}: cannot be read ({error.strerror})") from None
    if not isinstance(raw, dict):
        raise UserError(f"config {path}: expected a mapping of sections, found {type(raw).__name__}")
    for override in overrides:
        _apply_override(raw, override)
    return parse_config(raw, where=str(path))


def parse_config(raw: dict, where: str = "config") -> Config:
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error.errors()[0])}") from None
    build_objective(config.objective, where)
    if bool(config.data.path) == bool(config.data.feedback):
        raise UserError(f"{where}: set exactly one of data.path (pairs to read) and data.feedback (pairs to make)")
    if config.data.rerank and not config.data.score_with:
        raise UserError(f"{where}: data.rerank needs data.score_with, the reward that decides")
    return config


def build_objective(settings: dict[str, Any], where: str = "config"):
    """The objective named in `settings`, with its own settings validated."""
    from pydantic import TypeAdapter

    from visalign.objectives import OBJECTIVES

    settings = dict(settings)
    name = settings.pop("name", None)
    if not isinstance(name, str) or name not in OBJECTIVES:
        hint = nearest(str(name), OBJECTIVES)
        raise UserError(f"{where}: objective.name is '{name}', which is no objective{hint}")
    kind = OBJECTIVES[name]
    allowed = getattr(kind, "__dataclass_fields__", {})
    allowed = [key for key, field in allowed.items() if field._field_type.name == "_FIELD"]
    for key in settings:
        if key not in allowed:
            raise UserError(f"{where}: unknown key objective.{key} for {name}{nearest(key, allowed)}")
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error.errors()[0], 'objective')}") from None


def _apply_override(raw: dict, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"override '{override}': expected key=value, for example optim.lr=1e-4")
    if key == "model":
        key = "model.source"
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise UserError(f"override '{override}': {parent} is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override '{override}': the value is not readable as YAML") from None
    node[last] = _number(value)


def _number(value):
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _section(location: tuple) -> type[BaseModel] | None:
    kind: Any = Config
    for part in location:
        field = getattr(kind, "model_fields", {}).get(part)
        if field is None:
            return None
        options = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return kind


def _explain(error: dict, prefix: str = "") -> str:
    location = tuple(error["loc"])
    key = ".".join(str(part) for part in ((prefix, *location) if prefix else location))
    if error["type"] == "extra_forbidden":
        section = _section(location[:-1])
        return f"unknown key {key}{nearest(str(location[-1]), section.model_fields if section else ())}"
    if error["type"] == "missing":
        return f"{key} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if not key or error["type"] == "value_error":
        return f"{key + ': ' if key else ''}{message}"
    return f"{key} is {error['input']!r}: {message[0].lower()}{message[1:]}"


def recipe_path(name: str) -> Path:
    """A recipe shipped with visalign, from a source checkout or from an installed package."""
    here = Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"recipe {name}: not found beside the package; install visalign from a source checkout")
