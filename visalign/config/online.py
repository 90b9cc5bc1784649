"""Settings of online training, on the model's own samples."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from visalign.config.common import Evaluation, Guard, Model, NonNegative, Optim, Output, RewardSpec, Settings


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
    guard: Guard = Guard()
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
