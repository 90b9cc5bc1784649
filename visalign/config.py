"""Every setting of a run: typed, documented, validated before a model is loaded (configfile.py reads the YAML)."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator, model_validator

Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


RewardSpec = str | dict[str, Any]
"""A reward's name, folder or YAML file, or a mapping {kind: ..., ...}; see rewards/registry.py."""


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
    reward: RewardSpec = "tiny-clip"
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
    score_with: RewardSpec | None = None
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


class Output(Settings):
    """The run's folder and what is kept in it; checkpoint_every in optimiser steps (0: only the end)."""

    folder: str = "runs/train"
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    keep_checkpoints: PositiveInt = 2
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)


class Config(Settings):
    """One run. `objective` is {name: ..., and that method's own settings}."""

    loop: ClassVar[str] = "offline"
    model: Model
    data: Data = Data()
    objective: dict[str, Any]
    optim: Optim = Optim()
    train: Train = Train()
    eval: Evaluation = Evaluation()
    output: Output = Output()

    @model_validator(mode="after")
    def _consistent(self):
        if bool(self.data.path) == bool(self.data.feedback):
            raise ValueError("set exactly one of data.path (pairs to read) and data.feedback (pairs to make)")
        if self.data.rerank and not self.data.score_with:
            raise ValueError("data.rerank needs data.score_with, the reward that decides")
        return self

    def taught_by(self) -> str:
        """What the model learnt from, in words."""
        return self.data.path or f"pairs made by the model itself, ranked by {self.data.feedback.reward}"


class Window(Settings):
    """Consecutive sampling steps that are stochastic and trained; the others follow the ODE.

    schedule: where it starts. `random`: anywhere from `first` to `last`, anew each epoch (Flow-GRPO-Fast).
    `progressive`: `iterations` epochs at a place, then `stride` further, back to `first` after `last` (MixGRPO);
    `decay` and `exp_decay` stay shorter the later the place.
    first, last: earliest and latest start (last null: the latest that leaves the window whole).
    """

    size: PositiveInt = 3
    schedule: Literal["random", "progressive", "decay", "exp_decay"] = "random"
    first: Annotated[int, Field(ge=0)] = 0
    last: Annotated[int, Field(ge=0)] | None = None
    iterations: PositiveInt = 25
    stride: PositiveInt = 1
    exp_rate: PositiveFloat = 0.1
    exp_from: Annotated[int, Field(ge=0)] = 13


class Rollout(Settings):
    """How the generator's own samples are drawn, and which of their sampling steps are trained on.

    prompts: a text file (one a line) or `emoji:train`. votes: instead, a table of votes on two own pictures of a prompt
    (see data/votes.py); then no reward is needed and the frozen reference draws the samples anew from their seeds.
    prompts_per_epoch x group_size samples make an epoch, batch_size of them at a time in each process.
    sampler: `ode`, `flow_sde`, `dance_sde` and `cps` for flows, `ode` and `ddim` for diffusion; noise_level is its own.
    log_prob: the density, or `unnormalised` as the published trainers have it with cps.
    train_fraction: share of the stochastic steps trained on, the `first` ones or a `random` choice for each sample.
    clean_steps: this many last steps follow the ODE, so pictures are judged without the sampler's last noise
    (DanceGRPO: 1; SD3's own schedule ends with a step from 0.001 to 0, so 2 there).
    same_noise: all samples of a prompt start from one noise and differ by the sampler's noise alone.
    guidance_scale: of sampling and of training alike. detach_negative: no gradient through the unguided branch.
    """

    prompts: str = "emoji:train"
    max_prompts: PositiveInt | None = None
    votes: str | None = None
    prompts_per_epoch: PositiveInt = 8
    group_size: PositiveInt = 8
    batch_size: PositiveInt = 16
    steps: PositiveInt = 10
    sampler: Literal["ode", "flow_sde", "dance_sde", "cps", "ddim"] = "flow_sde"
    noise_level: NonNegative = 0.7
    log_prob: Literal["normal", "unnormalised"] = "normal"
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 0.99
    train_choice: Literal["first", "random"] = "first"
    window: Window | None = None
    clean_steps: Annotated[int, Field(ge=0)] = 0
    same_noise: bool = False
    guidance_scale: NonNegative = 1.0
    negative_prompt: str = ""
    detach_negative: bool = True
    cache: str = "~/.cache/visalign/latents"


class RewardTerm(Settings):
    """One reward of an online run: its specification, weight, and which of its dimensions (null: the first)."""

    reward: RewardSpec
    weight: float = 1.0
    dimension: str | None = None


class Judging(Settings):
    """What judges the samples. of: reward names, or mappings {reward, weight, dimension}.

    timeout: seconds one batch may take. retries: how often a judge that raises is asked again, after retry_wait
    seconds. max_failures: share of an epoch's samples that may stay without a judgement. offload: judges leave the
    accelerator while the generator trains.
    """

    of: tuple[RewardTerm, ...] = ()
    timeout: PositiveFloat = 600.0
    retries: Annotated[int, Field(ge=0)] = 2
    retry_wait: NonNegative = 10.0
    max_failures: Annotated[float, Field(ge=0, le=1)] = 0.25
    offload: bool = False

    @field_validator("of", mode="before")
    @classmethod
    def _names(cls, value):
        value = [value] if isinstance(value, str | dict) else value
        if not isinstance(value, list | tuple):
            return value
        is_term = [isinstance(each, dict) and "reward" in each or isinstance(each, RewardTerm) for each in value]
        return [each if term else {"reward": each} for each, term in zip(value, is_term, strict=True)]


class OnlineTrain(Settings):
    """Length and shape of online training.

    updates_per_epoch: optimiser steps an epoch's samples are divided among. batch_size: samples a process passes
    through the network at once. patience: how many updates in a row may have a gradient that is not finite, and how
    many epochs in a row may have nothing to learn, before the run stops.
    """

    epochs: PositiveInt = 100
    updates_per_epoch: PositiveInt = 1
    batch_size: PositiveInt = 16
    patience: PositiveInt = 5
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def steps(self) -> int:
        """The length of the run in its own unit."""
        return self.epochs


class OnlineOutput(Output):
    """As for offline runs, but counted in epochs, and a checkpoint after each."""

    checkpoint_every: Annotated[int, Field(ge=0)] = 1


class OnlineConfig(Settings):
    """One online run. `objective` is {name: ..., and its settings}, `advantage` the settings of advantages.py.

    `eval.every` and `output.checkpoint_every` count epochs.
    """

    loop: ClassVar[str] = "online"
    model: Model
    rollout: Rollout = Rollout()
    reward: Judging = Judging()
    advantage: dict[str, Any] = {}
    objective: dict[str, Any]
    optim: Optim = Optim()
    train: OnlineTrain = OnlineTrain()
    eval: Evaluation = Evaluation()
    output: OnlineOutput = OnlineOutput()

    @model_validator(mode="after")
    def _consistent(self):
        rollout = self.rollout
        if bool(rollout.votes) == bool(self.reward.of):
            raise ValueError("set exactly one of reward.of (rewards to raise) and rollout.votes (votes to follow)")
        if rollout.votes and rollout.group_size != 2:
            raise ValueError(f"rollout.group_size {rollout.group_size}: must be 2 with rollout.votes, the two pictures "
                             "that were voted on")
        if self.model.lora.dropout:
            raise ValueError("model.lora.dropout must be 0 in online training: samples are drawn without it, so the "
                             "policy that learns would be another than the one that sampled")
        window = rollout.window
        if window and window.size > rollout.steps - rollout.clean_steps:
            raise ValueError(f"rollout.window.size {window.size} does not fit into rollout.steps {rollout.steps}")
        if window and window.last is not None and window.last < window.first:
            raise ValueError(f"rollout.window.last {window.last} lies before rollout.window.first {window.first}")
        if rollout.same_noise and rollout.sampler == "ode":
            raise ValueError("rollout.same_noise with sampler ode makes all samples of a prompt the same")
        return self

    def taught_by(self) -> str:
        """What the model learnt from, in words."""
        if self.rollout.votes:
            return f"votes on its own samples, {self.rollout.votes}"
        judges = ", ".join(str(term.reward) for term in self.reward.of)
        return f"its own samples of {self.rollout.prompts}, judged by {judges}"


class JointSettings(Settings):
    """The network of a unified reward.

    backbone: `open_clip` (picture and text towers) or `vlm` (a vision-language model with one special token a
    dimension). source: its folder, hub id or embedded name. tuning: how much of the backbone learns.
    dimensions: what is judged. video_only: dimensions that a still picture does not have.
    layers: blocks whose tokens are read shallow to deep by hierarchical pooling (none: the pooled output of open_clip,
    the special tokens of a vlm).
    members: heads in the ensemble; their disagreement is the uncertainty. frames: read evenly from each clip.
    """

    backbone: Literal["open_clip", "vlm"] = "open_clip"
    source: str = "tiny-clip"
    tuning: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: PositiveInt = 16
    dimensions: Annotated[tuple[str, ...], Field(min_length=1)] = ("alignment", "quality", "aesthetics", "motion")
    video_only: tuple[str, ...] = ("motion",)
    layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    width: PositiveInt = 256
    attention_heads: PositiveInt = 4
    members: PositiveInt = 4
    frames: PositiveInt = 8

    @model_validator(mode="after")
    def _consistent(self):
        if len(set(self.dimensions)) != len(self.dimensions):
            raise ValueError("model.dimensions names a dimension twice")
        unknown = set(self.video_only) - set(self.dimensions)
        if unknown:
            raise ValueError(f"model.video_only names {sorted(unknown)[0]}, which is not in model.dimensions")
        if self.width % self.attention_heads:
            raise ValueError(f"model.width {self.width} must be a multiple of model.attention_heads "
                             f"{self.attention_heads}")
        return self


class JudgementData(Settings):
    """Where judgements come from (see data/judgements.py for the columns).

    holdout: share of the prompts kept for the report at the end. holdout_path: a table to report on instead.
    """

    path: str
    holdout_path: str | None = None
    image_root: str | None = None
    holdout: Fraction = 0.1
    max_judgements: PositiveInt | None = None


class RewardTrain(Settings):
    """Length of training; batch_size counts judgements per process, bootstrap gives each head its own resampling.

    backbone_lr_scale: learning rate of the backbone's own weights, relative to optim.lr.
    """

    steps: PositiveInt = 1000
    batch_size: PositiveInt = 32
    backbone_lr_scale: PositiveFloat = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    bootstrap: bool = True
    seed: int = 0
    workers: PositiveInt = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"


class RewardConfig(Settings):
    """One training of the unified reward. `objective` is {name: preference, and its settings}."""

    loop: ClassVar[str] = "reward"
    model: JointSettings = JointSettings()
    data: JudgementData
    objective: dict[str, Any] = {"name": "preference"}
    optim: Optim = Optim()
    train: RewardTrain = RewardTrain()
    output: Output = Output()
