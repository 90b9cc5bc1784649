"""Settings shared by several loops: model, evaluation, guard and output."""

from typing import Annotated, Any, ClassVar, Literal, get_args

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from visalign.validation.ranges import (
    AtLeastTwo,
    BatchSize,
    Few,
    FewOrNone,
    Fraction,
    FrameRate,
    Frames,
    GuidanceScale,
    Limit,
    LoraRank,
    Minutes,
    Often,
    Positive,
    PromptTokens,
    SamplingSteps,
    Seed,
    Share,
    SideLength,
    Signed,
    Within,
)

Text = Annotated[str, StringConstraints(pattern=r"\S")]
RewardSpec = Text | Annotated[dict[str, Any], Field(min_length=1)]
"""A reward's name, folder or YAML file, or a mapping {kind: ..., ...}; see rewards/registry.py."""


def switch_for_number(annotation: Any, value: Any) -> bool:
    """Whether true or false, which Python treats as 1 and 0, was given where a number is expected."""
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


class PolicyRun(Settings):
    """What is asked of every run that trains a policy. prompts_in: the section its prompts come from."""

    prompts_in: ClassVar[str] = "data"

    @property
    def learning_precision(self) -> str:
        """The arithmetic in which gradients are computed."""
        return self.model.precision

    @property
    def holdout(self) -> tuple[str, float]:
        """The setting that keeps prompts from training, and their share."""
        return f"{self.prompts_in}.holdout", getattr(self, self.prompts_in).holdout


Attention = Literal["native", "math", "flash", "xformers", "flex", "_native_math", "_native_flash", "_native_efficient",
                    "_native_cudnn", "flash_hub", "flash_varlen", "flash_varlen_hub", "_flash_3_hub",
                    "_flash_3_varlen_hub", "_flash_varlen_3"]
_WITHOUT_GRADIENTS = ("_flash_3", "flash_4_hub", "aiter_fa2_hub")
"""diffusers' wrapper of the first has no backward pass; of the others nothing says that they have one."""


class LoraSettings(Settings):
    """Low-rank adapter: rank, alpha (scale is alpha / rank), dropout, and module names (None: the family's own).

    start: a LoRA's file or folder, or a run, that is trained on; its layers, rank, alpha and kind are the file's.
    kind: `lora`; `rslora` scales by alpha / sqrt(rank); `dora` learns each row's length as well; `loha` and `lokr` are
    LyCORIS' Hadamard and Kronecker products. rank_pattern, alpha_pattern: other ranks and alphas of single layers, by
    their names or the ends of these after a dot.
    """

    rank: LoraRank = 16
    alpha: Positive = 16.0
    dropout: Fraction = 0.0
    targets: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    start: Text | None = None
    kind: Literal["lora", "rslora", "dora", "loha", "lokr"] = "lora"
    rank_pattern: dict[Text, LoraRank] = {}
    alpha_pattern: dict[Text, Positive] = {}

    @model_validator(mode="after")
    def _consistent(self):
        given = [name for name in ("targets", "rank_pattern", "alpha_pattern") if getattr(self, name)]
        if self.start and given:
            raise ValueError(f"model.lora.{given[0]}: the file of model.lora.start says which layers it has and of "
                             "which ranks; leave it out")
        if self.dropout and self.kind in ("loha", "lokr"):
            raise ValueError(f"model.lora.dropout: there is none for model.lora.kind {self.kind}; leave it out")
        return self


class HeldLora(Settings):
    """A LoRA's file or folder, or a run, and the strength it is applied at (1: as it was trained)."""

    path: Text
    strength: Signed = 1.0


class ModelSettings(Settings):
    """Which checkpoint, and how it is held in memory.

    source: hub id, local diffusers folder, single `.safetensors` file, or an embedded model (tiny-sd3, tiny-sdxl,
        tiny-wan, tiny-edit).
    base: the diffusers folder or hub id that gives a single file its configuration and missing parts (None: for SD1.5,
        SD2.1, SDXL, SD3, SD3.5 and FLUX.1 the configurations that visalign brings along).
    parts: files or folders that take the place of the model's parts, by name (vae, unet, transformer, text_encoder,
        text_encoder_2, tokenizer_3 and so on). without: parts that it runs without (text_encoder_3 of SD3).
    prediction: what a diffusion model predicts; `auto` is what its file or its scheduler says.
    tuning: what learns: a `lora`, the `full` network, or what it is told of a `user` (data.users) beside its text.
    user_features: with tuning user: the open_clip model that looks at a user's pairs, as eval.features names one.
    loras: LoRAs held below what is trained, [{path, strength}], on text encoders as well; all weights of a model take
        them in, beside an adapter they stay adapters.
    reference: what the policy is compared with: the model as training `start`s, or the `base` without any LoRA.
    precision: arithmetic of the denoiser; `auto` is bf16 where the hardware has it, else fp32.
    weights: how what is not trained is held, in memory and not in arithmetic; `auto` is as it is computed with on a GPU
        and fp32 on a CPU. The VAE, adapters and weights that are trained are always held in fp32.
    memory: `auto` chooses the least slow settings with which the run fits the memory there is, and says which.
    attention: `native` lets torch choose; `math` is its plain kernel, `flash` its fused one; xformers is optional; the
        others are diffusers' back ends that gradients pass through.
    compile: whether repeated blocks are compiled for training: minutes at the start, faster steps.
    vae_precision: in which latents are decoded: `bf16` takes half the time. They are always encoded in fp32.
    quantization: of the frozen weights below a LoRA; int8 and fp8 (torchao) and nf4 (bitsandbytes, 4 bits) round the
        linear layers of the denoiser's blocks and of `quantized_parts`, such as text_encoder_2, when they are loaded.
        The rounded model is then the reference.
    offload: what lies in host memory while it is not used. `frozen`: text encoders and VAE, which leave the device
        whenever the denoiser runs. `blocks`: those, and block by block what never learns: the reference of a full
        fine-tune, or the denoiser when a model only makes samples.
    resolution: side of images and videos in pixels, or [height, width] (None: the model's own).
    frames, fps: of videos (None: the model's own).
    prompt_tokens: length of the prompt for families that pad it (None: as the pipeline's call has it, 256 for FLUX.1,
        Wan and LTX).
    guidance: `none` goes on without guidance where a pipeline combines its predictions in a way that is not understood.
    edit: whether prompts have source images, for pipelines that make images with and without one (FLUX.2).
    call: further arguments of the pipeline's call, given whenever it is called, by name.
    """

    source: Text
    base: Text | None = None
    parts: dict[Text, Text] = {}
    without: tuple[Text, ...] = ()
    prediction: Literal["auto", "epsilon", "v_prediction"] = "auto"
    tuning: Literal["lora", "full", "user"] = "lora"
    user_features: Text | None = None
    lora: LoraSettings = LoraSettings()
    loras: tuple[HeldLora, ...] = ()
    reference: Literal["start", "base"] = "start"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    weights: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    memory: Literal["as_set", "auto"] = "as_set"
    attention: Attention = "native"
    compile: bool = False
    gradient_checkpointing: bool = False
    vae_precision: Literal["fp32", "bf16"] = "fp32"
    quantization: Literal["none", "int8", "fp8", "nf4"] = "none"
    quantized_parts: tuple[Text, ...] = ()
    offload: Literal["none", "frozen", "blocks"] = "none"
    vae_slicing: bool = False
    vae_tiling: bool = False
    resolution: SideLength | tuple[SideLength, SideLength] | None = None
    frames: Frames | None = None
    fps: FrameRate | None = None
    prompt_tokens: PromptTokens | None = None
    guidance: Literal["observed", "none"] = "observed"
    edit: bool = False
    call: dict[str, Any] = {}

    @field_validator("attention", mode="before")
    @classmethod
    def _has_gradients(cls, value):
        if isinstance(value, str) and (value.lstrip("_").startswith("sage") or value in _WITHOUT_GRADIENTS):
            raise PydanticCustomError("no_gradients", "diffusers' attention {name} is for sampling only: no gradient "
                                      "passes through it; use native", {"name": value})
        return value

    @field_validator("user_features", mode="before")
    @classmethod
    def _open_clip(cls, value):
        return value.removeprefix("clip:") if isinstance(value, str) else value

    @model_validator(mode="after")
    def _users(self):
        if (self.tuning == "user") != bool(self.user_features):
            raise ValueError("model.user_features and model.tuning user go together: it names the open_clip model that "
                             "looks at a user's pairs, such as ViT-L-14/openai (tiny-clip for the embedded models)")
        for name, why in (("compile", "compiled blocks cannot be told of users"), ("loras", "their export holds none")):
            if self.tuning == "user" and getattr(self, name):
                raise ValueError(f"model.{name}: does not go with model.tuning user, since {why}; leave it out")
        return self

    @model_validator(mode="after")
    def _fused(self):
        if self.attention == "flex" and not self.compile:
            raise ValueError("model.attention flex is slow unless it is compiled; set model.compile: true")
        return self

    @model_validator(mode="after")
    def _rounded(self):
        if self.quantization != "none" and self.tuning == "full":
            raise ValueError(f"model.quantization {self.quantization} rounds weights that stay as they are; with "
                             "model.tuning full every weight learns, so set one of them otherwise")
        if self.quantization == "nf4" and self.compile:
            raise ValueError("model.compile: layers of model.quantization nf4 cannot be compiled; use int8, or leave "
                             "compile out")
        if self.quantized_parts and self.quantization == "none":
            raise ValueError("model.quantized_parts: says nothing without model.quantization")
        if self.offload == "blocks" and self.tuning == "lora" and (self.loras or self.lora.start):
            raise ValueError("model.offload blocks: blocks are copied as they were loaded, without an adapter; use "
                             "model.offload=frozen with model.loras and model.lora.start")
        if self.offload == "blocks" and self.quantization == "nf4":
            raise ValueError("model.offload blocks: 4-bit blocks cannot be moved one by one; use model.offload=frozen")
        return self

    @model_validator(mode="after")
    def _consistent(self):
        if self.tuning != "lora" and self.lora.start:
            raise ValueError(f"model.lora.start: model.tuning {self.tuning} trains no LoRA; name the file in "
                             "model.loras" + ", which all weights take in" * (self.tuning == "full"))
        if self.tuning == "lora" and self.loras and self.lora.kind not in ("lora", "rslora"):
            raise ValueError(f"model.loras: one file cannot hold them and a {self.lora.kind}; use model.lora.kind lora "
                             "or rslora")
        if self.tuning == "lora" and self.quantization != "none" and self.lora.kind not in ("lora", "rslora"):
            raise ValueError(f"model.lora.kind {self.lora.kind}: reads the weights themselves, which "
                             f"model.quantization {self.quantization} has rounded; use lora or rslora")
        return self

    def without_loras(self) -> "ModelSettings":
        """The same checkpoint before any LoRA."""
        return self.model_copy(update={"loras": (), "lora": self.lora.model_copy(update={"start": None})})


class EvaluationSettings(Settings):
    """Samples and rewards on held-out prompts with fixed seeds; `every` in steps of the loop (0: only before/after).

    prompts: a text file (one per line), a set such as `emoji:held_out`, or a list of prompts, which are not trained on;
    null or `data`: those that data.holdout (online: rollout.holdout) keeps from training. steps, guidance_scale: null
    is the model's own.
    reward scores the images (any reward; its first dimension counts), features measures their diversity (an open_clip
    model); null omits either; `also` names more rewards to report, such as one not trained on. The embedded
    tiny-clip and tiny-reward know emoji only. batch_size: samples that are drawn at once.
    keep_best: the name of one of these rewards: the run ends with the weights whose measurement, one of those `every`
    so many steps, had its highest mean, the untrained ones included (null: with the last); a gain that is not clear is
    not taken where diversity clearly fell for it.
    """

    every: Often = 0
    prompts: Text | tuple[Text, ...] | None = None
    max_prompts: Limit | None = 16
    samples_per_prompt: Few = 2
    reward: RewardSpec | None = None
    also: tuple[RewardSpec, ...] = ()
    features: Text | None = None
    steps: SamplingSteps | None = None
    guidance_scale: GuidanceScale | None = None
    batch_size: BatchSize = 32
    seed: Seed = 1000
    keep_best: Text | None = None

    @model_validator(mode="after")
    def _consistent(self):
        if self.keep_best and not self.every:
            raise ValueError(f"eval.keep_best {self.keep_best}: the best of several measurements is kept, and there is "
                             "none during training; set eval.every to the steps between two")
        return self

    @field_validator("prompts", mode="before")
    @classmethod
    def _of_data(cls, value):
        return None if value == "data" else value

    @property
    def listed(self) -> tuple[str, ...]:
        """The prompts that are named one by one, which nothing is learnt from."""
        return self.prompts if isinstance(self.prompts, tuple) else ()


class GuardSettings(Settings):
    """The collapse guard: compares the run with its start, on the prompts and with the rewards of `eval`.

    action: `off`; `warn`; `stop` training when the model has collapsed or its reward is being hacked; `rollback` to
    the best acceptable point as well. every: steps of the loop between measurements; 0 chooses the fewest that
    keep their cost within the share `cost` of training's network passes. budget: share of diversity that may be lost;
    drift, tolerance: standard deviations by which style may move and other rewards may fall. start_sets: on how many
    times `max_prompts` of the prompts of `eval` the start is measured, and what is looked at closely since something
    seems wrong; where there are no more prompts, on how many sets of seeds.
    watch: online runs also measure the groups that they learn from, after every epoch, and look in between when
    diversity seems to fall there or style to drift; watch_samples: how many of each group's samples. watch_rewards: the
    share of an epoch's samples that rewards of eval.also score as well (0: none), to look when one falls while the
    optimised reward rises. watch_pairs: of how many held-out pairs offline runs measure the errors in between, as often
    as 1 % of training's passes allow (0: none), to look when chosen samples seem to have become unlikelier, the error
    more than half of the share `growth` above the start's, or less preferred.
    """

    action: Literal["off", "warn", "stop", "rollback"] = "off"
    every: Often = 0
    cost: Share = 0.05
    max_prompts: Limit = 32
    samples_per_prompt: AtLeastTwo = 4
    start_sets: Few = 4
    watch: bool = True
    watch_samples: AtLeastTwo = 4
    watch_rewards: Fraction = 0.0
    watch_pairs: FewOrNone = 0
    growth: Positive = 0.1
    budget: Within = 0.15
    drift: Positive = 2.0
    tolerance: Annotated[float, Interval(gt=0.1, le=100)] = 0.25


class OutputSettings(Settings):
    """The run's folder and what is kept in it.

    checkpoint_every: in optimiser steps, 0: by time only. checkpoint_minutes: also one whenever the last is this old,
    0: never. There is always one at the end. keep_checkpoints: how many of the newest to keep, 0: all of them (for
    `visalign evaluate RUN --checkpoints all`). single_file: precision of the one file that a full fine-tune of SD1.x or
    SDXL is also exported as, for user interfaces; `none` for no such file. trackers: what is told of the run beside its
    folder.
    """

    folder: Text = "runs/train"
    checkpoint_every: Often = 0
    checkpoint_minutes: Minutes = 10.0
    keep_checkpoints: FewOrNone = 2
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    single_file: Literal["fp16", "bf16", "fp32", "none"] = "fp16"
