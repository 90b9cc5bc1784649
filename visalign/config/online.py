"""Settings of online training, on the model's own samples."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import Field, field_validator, model_validator

from visalign.config.common import (
    EvaluationSettings,
    GuardSettings,
    ModelSettings,
    OutputSettings,
    PolicyRun,
    RewardSpec,
    Settings,
    Text,
)
from visalign.config.guide import RolloutGuideSettings
from visalign.config.optim import OptimSettings, check_tuned, refuse_fused
from visalign.validation.ranges import (
    AtLeastTwo,
    BatchSize,
    Few,
    FewOrNone,
    Fraction,
    GuidanceScale,
    Limit,
    NoiseLevel,
    Often,
    Portion,
    Positive,
    SamplingSteps,
    Seconds,
    Seed,
    Share,
    Staleness,
    Steps,
    Wait,
    WaitMinutes,
    Weight,
)


class WindowSettings(Settings):
    """Consecutive sampling steps that are stochastic and trained; the others follow the ODE.

    schedule: where it starts. `random`: anywhere from `first` to `last`, anew each epoch (Flow-GRPO-Fast).
    `progressive`: `iterations` epochs at a place, then `stride` further, back to `first` after `last` (MixGRPO);
    `decay` and `exp_decay` stay shorter the later the place.
    first, last: earliest and latest start (last null: the latest that leaves the window whole).
    """

    size: SamplingSteps = 3
    schedule: Literal["random", "progressive", "decay", "exp_decay"] = "random"
    first: FewOrNone = 0
    last: FewOrNone | None = None
    iterations: Steps = 25
    stride: SamplingSteps = 1
    exp_rate: Positive = 0.1
    exp_from: FewOrNone = 13


class TailSettings(Settings):
    """The steps after a sliding window by a solver of second order, which takes fewer (MixGRPO-Flash).

    ratio: how many times it has for each that remains, at least two in all. 0.4: Flash; 0.2 where the window stays.
    """

    ratio: Share = 0.4


class SiblingSettings(Settings):
    """Candidates of each sampling step from the same latents, of which `rollout.guide` names the best and the worst
    (SPO).

    count: how many. threshold: how much likelier than not the best must be the better one, from 0, where every pair
    counts, to 1.
    """

    count: AtLeastTwo = 4
    threshold: Fraction = 0.3


class TrunkSettings(Settings):
    """Samples of a prompt grow as trees, whose trunk divides in two before some sampling steps (BranchGRPO).

    steps: which, in rising order; s of them make 2^s samples of one noise, whose common steps are drawn once. noise: by
    what the noise of these steps is multiplied, so that the two parts differ. trained: the steps that are learnt from,
    as a window that slides while all steps stay stochastic (null: those of train_fraction).
    """

    steps: Annotated[tuple[FewOrNone, ...], Field(min_length=1, max_length=10)]
    noise: Positive = 4.0
    trained: WindowSettings | None = None

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"rollout.branches.steps {list(steps)} must rise")
        return steps


class RolloutActorSettings(Settings):
    """Actors on a Ray cluster that sample and score, each with the generator and the rewards in its own process.

    address: HOST:PORT of the cluster's head; null: the variable RAY_ADDRESS, else a Ray of this machine alone.
    actors: how many. cpus, gpus: what Ray sets aside for each; gpus null: one where the generator learns on a GPU, else
    none. replacements: how many actors may die or stand still in all before the run ends; another one takes the place
    of each, and draws its batch again. wait_minutes: how long one may take to start, or for a batch, before that.
    store_gib: memory for results of a Ray of this machine; null: Ray's own choice, a third of what is there.
    """

    address: Text | None = None
    actors: Few = 2
    cpus: Positive = 0.5
    gpus: Weight | None = None
    replacements: FewOrNone = 3
    wait_minutes: WaitMinutes = 30.0
    store_gib: Annotated[float, Interval(ge=0.1, le=10_000)] | None = None


class RolloutSettings(Settings):
    """How the generator's own samples are drawn, and which of their sampling steps are trained on.

    prompts: a text file (one per line) or a set such as `emoji:train`. holdout: share of them that is held out from
    training and measured on where eval.prompts names no others. votes: instead, a table of votes on two samples of a
    prompt (see data/seed_preferences.py); then no reward is needed and the frozen reference draws the samples again
    from their seeds.
    prompts_per_epoch x group_size samples make an epoch, batch_size of them at a time in each process.
    sampler: `ode`, `flow_sde`, `dance_sde` and `cps` for flows, `ode` and `ddim` for diffusion; noise_level is its own.
    log_prob: the density, or `unnormalised` as the published trainers have it with cps.
    train_fraction: share of the stochastic steps trained on, the `first` ones or a `random` choice for each sample.
    tail: the steps after a `progressive` window are fewer, by a solver of second order, for flow models.
    guide: a latent reward that the samples follow. branches: samples grow as trees, and share the steps of their trunk.
    siblings: several candidates of each trained step, which the guide scores and does not move.
    clean_steps: this many last steps follow the ODE, so images are scored without the sampler's last noise
    (DanceGRPO: 1; SD3's own schedule ends with a step from 0.001 to 0, so 2 there).
    same_noise: all samples of a prompt start from one noise and differ by the sampler's noise alone.
    guidance_scale: of sampling and of training alike. detach_negative: no gradient through the unguided branch.
    guidance_apart: the unguided branch in a pass of its own, which then keeps no activations; else both in one.
    engine: `local`, or `ray`: actors of `ray` sample and score, and this process learns.
    staleness: with engine ray, how many epochs the policy that samples may be behind the one that learns; with 0 they
    take turns, and the run is the same as with engine local.
    """

    prompts: Text | None = None
    max_prompts: Limit | None = None
    holdout: Fraction = 0.1
    votes: Text | None = None
    prompts_per_epoch: Few = 8
    group_size: Few = 8
    batch_size: BatchSize = 16
    steps: SamplingSteps = 10
    sampler: Literal["ode", "flow_sde", "dance_sde", "cps", "ddim"] = "flow_sde"
    noise_level: NoiseLevel = 0.7
    log_prob: Literal["normal", "unnormalised"] = "normal"
    train_fraction: Share = 0.99
    train_choice: Literal["first", "random"] = "first"
    window: WindowSettings | None = None
    tail: TailSettings | None = None
    guide: RolloutGuideSettings | None = None
    siblings: SiblingSettings | None = None
    branches: TrunkSettings | None = None
    clean_steps: FewOrNone = 0
    same_noise: bool = False
    guidance_scale: GuidanceScale = 1.0
    negative_prompt: str = ""
    detach_negative: bool = True
    guidance_apart: bool = False
    cache: Text = "~/.cache/visalign/latents"
    engine: Literal["local", "ray"] = "local"
    staleness: Staleness = 0
    ray: RolloutActorSettings = RolloutActorSettings()

    @property
    def split_steps(self) -> tuple[int, ...]:
        """Before which sampling steps a trunk divides."""
        return self.branches.steps if self.branches else ()

    @property
    def leaves(self) -> int:
        """Samples of one tree."""
        return 2**len(self.split_steps)

    @property
    def trained_window(self) -> WindowSettings | None:
        """The window that is learnt from, whether or not other steps add noise too."""
        return self.branches.trained if self.branches else self.window


def check_branches(rollout: RolloutSettings) -> None:
    """Raise ValueError when trees cannot grow with the other settings."""
    branches, steps = rollout.branches, rollout.steps - rollout.clean_steps
    if branches.steps[-1] >= steps:
        raise ValueError(f"rollout.branches.steps {branches.steps[-1]}: must be below {steps}, rollout.steps less "
                         "rollout.clean_steps, since parts that add no noise stay the same")
    for name, given in (("window", rollout.window), ("votes", rollout.votes), ("guide", rollout.guide),
                       ("train_choice random", rollout.train_choice == "random")):
        if given:
            raise ValueError(f"rollout.branches goes without rollout.{name}; leave one of them out")
    if branches.trained:
        check_window(branches.trained, steps, "rollout.branches.trained")


def check_window(window: WindowSettings, steps: int, where: str = "rollout.window") -> None:
    """Raise ValueError when a window does not lie within the steps that may be stochastic."""
    last = steps - window.size
    if last < 0:
        raise ValueError(f"{where}.size {window.size} does not fit into the {steps} steps of rollout.steps less "
                         "rollout.clean_steps")
    for name, place in (("first", window.first), ("last", window.last)):
        if place is not None and place > last:
            raise ValueError(f"{where}.{name} {place}: a window of {window.size} starts at step {last} at the "
                             f"latest, of {steps} that may be stochastic")
    if window.last is not None and window.last < window.first:
        raise ValueError(f"{where}.last {window.last} lies before {where}.first {window.first}")


class RewardTerm(Settings):
    """One reward of an online run: its specification, weight, and which of its dimensions (null: the first).

    To prefer less of something, wrap it: {kind: direction, weights: {NAME: -1}, of: [NAME]}.
    """

    reward: RewardSpec
    weight: Weight = 1.0
    dimension: Text | None = None


class RewardSettings(Settings):
    """What scores the samples. models: reward names, or mappings {reward, weight, dimension}.

    timeout: seconds one batch may take. retries: how often a reward that raises is asked again, after retry_wait
    seconds. max_failures: share of an epoch's samples that may stay without an annotation. offload: rewards leave the
    accelerator while the generator trains.
    """

    models: tuple[RewardTerm, ...] = ()
    timeout: Seconds = 600.0
    retries: FewOrNone = 2
    retry_wait: Wait = 10.0
    max_failures: Portion = 0.25
    offload: bool = False

    @field_validator("models", mode="before")
    @classmethod
    def _names(cls, value):
        value = [value] if isinstance(value, str | dict) else value
        if not isinstance(value, list | tuple):
            return value
        is_term = [isinstance(each, dict) and "reward" in each or isinstance(each, RewardTerm) for each in value]
        return [each if term else {"reward": each} for each, term in zip(value, is_term, strict=True)]


class OnlineRewardSettings(RewardSettings):
    """As `RewardSettings`. features: what tells kinds of a prompt's samples apart for advantage.rarity, an open_clip
    model, as eval.features names one; what the run learns from says less of its diversity, so take another there.
    """

    features: Text | None = None


class OnlineTrainSettings(Settings):
    """Length and shape of online training.

    updates_per_epoch: optimiser steps an epoch's samples are divided among. batch_size: samples a process passes
    through the network at once. patience: how many updates in a row may have a gradient that is not finite, and how
    many epochs in a row may have nothing to learn, before the run stops.
    wait_minutes: of several processes, how long nobody may move before the run ends and names who is late.
    """

    epochs: Steps = 100
    updates_per_epoch: Few = 1
    batch_size: BatchSize = 16
    patience: Few = 5
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wait_minutes: WaitMinutes = 60.0

    @property
    def steps(self) -> int:
        """The length of the run in its own unit."""
        return self.epochs


class OnlineOutputSettings(OutputSettings):
    """As for offline runs, but counted in epochs, and a checkpoint after each."""

    checkpoint_every: Often = 1


class OnlineConfig(PolicyRun):
    """One online run. `objective` is {name: ..., and its settings}, `advantage` the settings of advantages.py.

    `eval.every` and `output.checkpoint_every` count epochs.
    """

    loop: ClassVar[str] = "online"
    prompts_in: ClassVar[str] = "rollout"
    goals: ClassVar[None] = None
    """No online model learns to be asked for a score."""
    model: ModelSettings
    rollout: RolloutSettings = RolloutSettings()
    reward: OnlineRewardSettings = OnlineRewardSettings()
    advantage: dict[str, Any] = {}
    objective: dict[str, Any]
    optim: OptimSettings = OptimSettings()
    train: OnlineTrainSettings = OnlineTrainSettings()
    eval: EvaluationSettings = EvaluationSettings()
    guard: GuardSettings = GuardSettings()
    output: OnlineOutputSettings = OnlineOutputSettings()

    @property
    def watched(self) -> bool:
        """Whether the guard watches the groups that are learnt from, which rewards see."""
        return bool(self.guard.action != "off" and self.guard.watch and self.reward.models
                    and self.rollout.group_size > 1)

    @property
    def watched_rewards(self) -> tuple[RewardSpec, ...]:
        """Those of `eval.also` that score samples that are learnt from, and are not learnt from themselves."""
        learnt = [term.reward for term in self.reward.models]
        return tuple(spec for spec in self.eval.also if spec not in learnt) if self.guard.watch_rewards else ()

    @property
    def embedded_by(self) -> str | None:
        """What embeds the samples that are learnt from, if anything does."""
        return self.reward.features or (self.eval.features if self.watched else None)

    @model_validator(mode="after")
    def _consistent(self):
        check_tuned(self.model, self.optim)
        refuse_fused(self.optim, "an online update adds several up")
        if self.model.tuning == "user":
            raise ValueError("model.tuning user learns from pairs whose users are known, in offline training "
                             "(configs/sdxl_ppd.yaml); use lora or full")
        if self.guard.watch_rewards and self.watched and not self.watched_rewards:
            raise ValueError(f"guard.watch_rewards {self.guard.watch_rewards:g}: no reward is held out to be watched; "
                             "name one in eval.also that is not in reward.models")
        rollout = self.rollout
        if bool(rollout.votes) == bool(self.reward.models):
            raise ValueError("set exactly one of reward.models (rewards to raise) and rollout.votes (votes to follow)")
        if rollout.votes and rollout.group_size != 2:
            raise ValueError(f"rollout.group_size {rollout.group_size}: must be 2 with rollout.votes, the two images "
                             "that were voted on")
        if rollout.votes and self.model.reference == "base":
            raise ValueError("model.reference base: the images that were voted on are those of the model as it starts; "
                             "use model.reference start with rollout.votes")
        if self.model.lora.dropout:
            raise ValueError("model.lora.dropout must be 0 in online training: samples are drawn without it, so the "
                             "policy that learns would be another than the one that sampled")
        if self.reward.models and not any(term.weight for term in self.reward.models):
            raise ValueError("reward.models weighs every reward 0, so there is nothing to raise")
        if rollout.clean_steps >= rollout.steps:
            raise ValueError(f"rollout.clean_steps {rollout.clean_steps} must be fewer than rollout.steps "
                             f"{rollout.steps}")
        if rollout.sampler in ("cps", "ddim") and rollout.noise_level > 1:
            raise ValueError(f"rollout.noise_level {rollout.noise_level:g}: sampler {rollout.sampler} takes at most 1, "
                             "all of the next noise drawn anew")
        if rollout.guidance_apart and not rollout.detach_negative:
            raise ValueError("rollout.guidance_apart saves what a pass without gradient saves, and "
                             "rollout.detach_negative false wants gradients from both; leave one of them out")
        if rollout.staleness and rollout.engine == "local":
            raise ValueError(f"rollout.staleness {rollout.staleness}: one process samples with what it has learnt; use "
                             "rollout.engine ray, or staleness 0")
        if rollout.window:
            check_window(rollout.window, rollout.steps - rollout.clean_steps)
        if rollout.branches:
            check_branches(rollout)
        if rollout.tail and (rollout.window is None or rollout.window.schedule != "progressive"):
            raise ValueError("rollout.tail shortens what follows a window that slides: set rollout.window with "
                             "schedule progressive, or leave it out")
        if rollout.tail and rollout.sampler in ("ode", "ddim"):
            raise ValueError("rollout.tail follows steps of a stochastic sampler of flow models, and rollout.sampler "
                             f"is {rollout.sampler}: use flow_sde, dance_sde or cps, or leave it out")
        if rollout.guide and (rollout.tail or rollout.votes):
            raise ValueError("rollout.guide moves the samples that are drawn: it goes with neither rollout.tail nor "
                             "rollout.votes; leave one of them out")
        if rollout.siblings and (rollout.guide is None or rollout.guide.scale):
            raise ValueError("rollout.siblings are scored by rollout.guide, which moves nothing then: set its source "
                             "and weights, and scale 0")
        if rollout.siblings and (rollout.window or rollout.train_choice == "random"):
            raise ValueError("rollout.siblings are drawn at the same steps of every sample, those in the range of "
                             "rollout.guide: leave out rollout.window and train_choice random")
        if rollout.same_noise and rollout.sampler == "ode":
            raise ValueError("rollout.same_noise with sampler ode makes all samples of a prompt the same")
        return self

    def taught_by(self) -> tuple[str, ...]:
        """What the model learnt from, in words, of which paths are some of their own."""
        if self.rollout.votes:
            return "votes on its own samples,", self.rollout.votes
        rewards = ", ".join(str(term.reward) for term in self.reward.models)
        return "its own samples of", str(self.rollout.prompts), f"scored by {rewards}"
