"""Settings of offline training, from preference pairs."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from visalign.config.buckets import BucketSettings
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
from visalign.config.goals import PromptGoalSettings
from visalign.config.optim import OptimSettings, check_tuned, refuse_fused
from visalign.config.sources import CaptionSettings, DataFormat, SourceSettings, check_shares, shares_of
from visalign.config.subject import SubjectSettings
from visalign.validation.ranges import (
    AtLeastTwo,
    BatchSize,
    ContextPairs,
    Few,
    Fraction,
    GuidanceScale,
    HalfToOne,
    Limit,
    Positive,
    SamplingSteps,
    Seed,
    Shift,
    Signed,
    Steps,
    UnderHalf,
    WaitMinutes,
    Within,
)


class FeedbackSettings(Settings):
    """Make the pairs instead of reading them: sample each prompt several times, let a reward pick best and worst.

    prompts: a text file (one per line) or `emoji:train` / `emoji:held_out`.
    strategy: `best_worst`, the best against the worst, then the second best against the second worst, ..., or `pareto`
    (CaPO): best trade-offs between `reward` and the `further` ones against the worst, with win rates as rewards.
    pairs_per_prompt: at most. further: rewards beside `reward`, for pareto. standardise: for pareto, each reward in its
    own standard deviations, within prompts.
    """

    prompts: Text = "emoji:train"
    max_prompts: Limit | None = None
    samples_per_prompt: AtLeastTwo = 4
    pairs_per_prompt: Few = 1
    strategy: Literal["best_worst", "pareto"] = "best_worst"
    reward: RewardSpec = "tiny-clip"
    further: tuple[RewardSpec, ...] = ()
    standardise: bool = False
    steps: SamplingSteps = 16
    guidance_scale: GuidanceScale = 1.0

    @model_validator(mode="after")
    def _consistent(self):
        if 2 * self.pairs_per_prompt > self.samples_per_prompt:
            raise ValueError(f"data.feedback.pairs_per_prompt {self.pairs_per_prompt} takes two samples each, more "
                             f"than data.feedback.samples_per_prompt {self.samples_per_prompt}")
        unused = next((name for name in ("further", "standardise") if getattr(self, name)), None)
        if unused and self.strategy != "pareto":
            raise ValueError(f"data.feedback.{unused} is for data.feedback.strategy=pareto, got {self.strategy}")
        return self

    @property
    def rewards(self) -> tuple[RewardSpec, ...]:
        """All that score the samples."""
        return (self.reward, *self.further)


class OwnSettings(Settings):
    """Earlier selves of a run, for objectives that compare good samples with what these make of the same prompts.

    every: optimiser steps from one to the next; the first is the model as training starts. keep: how many of the newest
    there are at a time, each a copy of the trained weights in single precision. steps, guidance_scale: with which they
    are sampled, without a negative prompt; a sample is made once for each prompt and self that meet.
    """

    every: Steps = 30
    keep: Few = 7
    steps: SamplingSteps = 16
    guidance_scale: GuidanceScale = 1.0

    def numbers(self, step: int) -> list[int]:
        """The steps after which the selves were taken that there are once so many steps are done."""
        return list(range(0, step + 1, self.every))[-self.keep:]

    def most(self, steps: int) -> int:
        """How many there are at a time in a run of so many steps."""
        return min(self.keep, steps // self.every + 1)


class UserSettings(Settings):
    """Learn who prefers what, by the column `user` of the pairs (`user_id` in Pick-a-Pic's format): model.tuning user.

    context: N, how many other pairs of the same user, about other prompts, say who it is at each visit of a pair; users
    with fewer are left out and counted.
    dropout: share of the visits that learn for nobody.
    holdout: users whose pairs are measured on and never learnt from: their names, or a share of all.
    """

    context: ContextPairs = 4
    dropout: Fraction = 0.1
    holdout: Fraction | Annotated[tuple[Text, ...], Field(min_length=1)] = 0.0

    @property
    def held_names(self) -> tuple[str, ...]:
        """The users that are held out by name."""
        return self.holdout if isinstance(self.holdout, tuple) else ()


OF_A_SOURCE = ("path", "format", "split", "media_root", "max_pairs")
"""What each of several sources says for itself."""


class LabelStrengthSettings(Settings):
    """Use what `visalign reward annotate` writes beside a pair, flip_chance and margin (Secrets of RLHF in LLMs II,
    Wang et al. 2024, arXiv 2401.06080). A pair's strength is its margin then, which `objective.margin` multiplies.

    flip: pairs whose flip_chance is at least this are turned round (null: none).
    soft: each label is right with the probability 1 - flip_chance, a half at least.
    smooth: this much doubt of the labels that the reward disagrees with, and of the strongest tenth (0: none).
    most: strengths are kept below this many log-odds, as by --most of annotate.
    """

    flip: HalfToOne | None = None
    soft: bool = False
    smooth: UnderHalf = 0.0
    most: Positive = 3.0

    @model_validator(mode="after")
    def _consistent(self):
        if self.soft and self.smooth:
            raise ValueError("data.strength.soft and data.strength.smooth both say how sure a label is; set one "
                             "of them")
        return self


class DataSettings(Settings):
    """Where preference pairs come from.

    path: a file or folder of a public format, a folder of images or videos with captions (for `sft`), or a `datasets`
    hub id; or leave it out and set `feedback`, `subject`, or `sources` for several of them in one run.
    captions: how captions become prompts, and where they are.
    split: of a folder or hub set; found in the names of files and folders (train-00000-of-00001.parquet, test/...).
    good_from: for objectives that learn from good and bad samples: from which rating on a sample is good, where the
    data are ratings (null: a column `label` or pairs say so).
    positive_ratio: for the same objectives: share of the visits that good samples get (null: as the data are).
    on_error: what a row that cannot be used does: `stop` the run before it trains, or `skip`: it is left out, counted
    and listed in the run's skipped.jsonl; more than the share max_skipped end the run all the same.
    dimensions: weights of the dimensions in which the set was labelled, such as {VQ: 1, MQ: 1, TA: 2}; a negative one
    prefers less of it (null: its `Overall`, else all in equal parts).
    own: for objectives that make the rejected samples themselves: of which earlier selves (null: as usual).
    score_with: a reward that scores both images of a pair (needed by reward-weighted objectives).
    rerank: flip pairs where that reward disagrees with the label (AI feedback).
    swap: the chosen and the rejected sample of each pair change places, with their rewards, so that a run learns to
    prefer the worse one: a negative adapter, for `visalign generate --negative-adapter` (Diffusion-NPO).
    strength: use a trained reward's opinion of each label, {flip: 0.9, soft: true}: turn or doubt labels that it holds
    for wrong, and take its margin for how clear they are.
    goals: reward-augmented data, of pairs with rewards.
    shared_noise: whether both samples of a pair are noised to one time by one noise; false gives each its own.
    users: learn who prefers what, with model.tuning user: `true`, or what differs from the usual, such as {context: 8}.
    caption_dropout: share of the visits that learn without a prompt, which keeps guidance working.
    holdout: share of the prompts kept for measuring: implicit accuracy on their pairs, and samples of them where
    eval.prompts names no others.
    buckets: learn images at the size nearest to their own shape, rather than all cropped to one: `true`, or
    what differs from the usual buckets of the model, such as {min: 256} (null: off).
    micro_conditions: what SDXL and CogView 4 are told of an image's size and crop: those of each `image`, or the
    `constant` ones of the size it is learnt at; `auto` is image with buckets and constant without.
    cache: folder for latents, text embeddings and the source images that a table holds; safe to share between runs and
    processes.
    cache_dtype: how latents and embeddings are kept: `bf16` (half the size), `fp32` (as they were computed), or `auto`,
    which is bf16 where the arithmetic is.
    """

    path: Text | None = None
    sources: Annotated[tuple[SourceSettings, ...], Field(min_length=1)] | None = None
    captions: CaptionSettings = CaptionSettings()
    format: DataFormat = "auto"
    dimensions: Annotated[dict[Text, Signed], Field(min_length=1)] | None = None
    split: Text = "train"
    media_root: Text | None = None
    good_from: Signed | None = None
    positive_ratio: Within | None = None
    on_error: Literal["stop", "skip"] = "stop"
    max_skipped: Fraction = 0.05
    feedback: FeedbackSettings | None = None
    own: OwnSettings | None = None
    subject: SubjectSettings | None = None
    score_with: RewardSpec | None = None
    rerank: bool = False
    swap: bool = False
    strength: LabelStrengthSettings | None = None
    goals: PromptGoalSettings | None = None
    users: UserSettings | None = None
    max_pairs: Limit | None = None
    holdout: Fraction = 0.05
    shared_noise: bool = True
    caption_dropout: Fraction = 0.0
    buckets: BucketSettings | None = None
    micro_conditions: Literal["auto", "image", "constant"] = "auto"
    cache: Text = "~/.cache/visalign/latents"
    cache_dtype: Literal["auto", "bf16", "fp32"] = "auto"

    @field_validator("buckets", mode="before")
    @classmethod
    def _usual(cls, value):
        return BucketSettings() if value is True else None if value is False else value

    @field_validator("users", mode="before")
    @classmethod
    def _usual_users(cls, value):
        return UserSettings() if value is True else None if value is False else value

    @model_validator(mode="after")
    def _consistent(self):
        given = [name for name in OF_A_SOURCE if getattr(self, name) != type(self).model_fields[name].default]
        if self.sources and given:
            raise ValueError(f"data.{given[0]}: does not go with data.sources; give each source its own {given[0]}")
        if self.sources:
            check_shares(self.sources)
            if self.positive_ratio is not None and any(shares_of(self.sources)):
                raise ValueError("data.positive_ratio: does not go with the shares of data.sources, which say how "
                                 "often samples are visited too; give repeats instead of shares")
        self._check_swap()
        self._check_subject()
        self._check_strength()
        other = self.users and next((name for name in ("feedback", "subject") if getattr(self, name)), None)
        if other:
            raise ValueError(f"data.users learns who prefers what, and the pairs that data.{other} makes are nobody's; "
                             "leave one of them out")
        return self

    def _check_subject(self) -> None:
        if self.subject and self.holdout:
            raise ValueError(f"data.holdout {self.holdout:g}: a subject has few photographs, and data.subject learns "
                             "from all of them; set data.holdout=0")
        other = self.subject and next((name for name in ("goals", "score_with", "swap", "max_pairs")
                                       if getattr(self, name)), None)
        if other:
            raise ValueError(f"data.{other}: is for pairs that are read, and data.subject makes and scores its own; "
                             "leave one of them out")

    def _check_strength(self) -> None:
        if self.strength and self.feedback:
            raise ValueError("data.strength is for pairs that `visalign reward annotate` has seen, and data.feedback "
                             "makes its own, whose strength is the gap of their rewards; leave one of them out")
        if self.strength and self.rerank:
            raise ValueError("data.strength and data.rerank both let a reward decide which sample is the chosen one; "
                             "leave one of them out")
        if self.strength and self.goals:
            raise ValueError("data.strength changes nothing with data.goals, which asks for the score of either sample "
                             "of a pair; leave one of them out")

    def _check_swap(self) -> None:
        if self.swap and self.feedback:
            raise ValueError("data.swap is for pairs that are read, and data.feedback makes its own; keep them first "
                             "with `visalign data pairs` and name their file as data.path")
        if self.swap and self.rerank:
            raise ValueError("data.swap and data.rerank undo each other, since rerank decides by reward which sample "
                             "is the chosen one; leave one of them out")
        if self.swap and self.goals:
            raise ValueError("data.swap changes nothing with data.goals, which asks for the score of either sample of "
                             "a pair; leave one of them out")

    @property
    def each(self) -> "tuple[DataSettings, ...]":
        """The settings of each source as if it were the only one."""
        if not self.sources:
            return (self,)
        return tuple(self.model_copy(update={"sources": None, "captions": one.captions_of(self.captions)}
                                     | {name: getattr(one, name) for name in OF_A_SOURCE}) for one in self.sources)

    @property
    def selves(self) -> OwnSettings:
        """The earlier selves, of objectives that need any."""
        return self.own or OwnSettings()

    def repeats(self, place: int) -> int:
        """How often an epoch visits each pair of the source at a place of `sources`."""
        return self.sources[place].repeats or 1 if self.sources else 1

    def is_prior(self, place: int) -> bool:
        """Whether the source at a place of `sources` is a prior set."""
        return bool(self.sources) and self.sources[place].prior

    @property
    def named(self) -> str:
        """The sources in words."""
        return " and ".join(str(one.path) for one in self.each)

    @property
    def tells_fits(self) -> bool:
        """Whether a model that is told of an image's size and crop is told those of each image."""
        return self.micro_conditions == "image" or (self.micro_conditions == "auto" and bool(self.buckets))


class TrainSettings(Settings):
    """Length and shape of training; batch_size counts pairs per process, steps are optimiser steps.

    one_side_at_a_time: chosen and rejected samples pass one after the other, so that one side's activations are held at
    a time; the gradients are the same, for one more forward pass.
    timestep_shift moves `shifted` (uniform) and `logit_normal` times towards noise; SD3 learnt on the latter, with 3.
    wait_minutes: of several processes, how long nobody may move before the run ends and names who is late.
    """

    steps: Steps = 1000
    batch_size: BatchSize = 4
    gradient_accumulation: Few = 1
    one_side_at_a_time: bool = False
    timestep_sampling: Literal["uniform", "logit_normal", "shifted"] = "uniform"
    timestep_shift: Shift = 1.0
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wait_minutes: WaitMinutes = 60.0


class OfflineConfig(PolicyRun):
    """One run. `objective` is {name: ..., and that method's own settings}."""

    loop: ClassVar[str] = "offline"
    model: ModelSettings
    data: DataSettings = DataSettings()
    objective: dict[str, Any]
    optim: OptimSettings = OptimSettings()
    train: TrainSettings = TrainSettings()
    eval: EvaluationSettings = EvaluationSettings()
    guard: GuardSettings = GuardSettings()
    output: OutputSettings = OutputSettings()

    @model_validator(mode="after")
    def _whole_gradients(self):
        check_tuned(self.model, self.optim)
        if self.train.gradient_accumulation > 1:
            refuse_fused(self.optim, f"train.gradient_accumulation {self.train.gradient_accumulation} adds several up")
        if self.train.one_side_at_a_time:
            refuse_fused(self.optim, "train.one_side_at_a_time adds the gradients of two sides up")
        if self.model.precision == "fp16":
            refuse_fused(self.optim, "model.precision fp16 scales gradients until all are there")
        return self

    @model_validator(mode="after")
    def _consistent(self):
        if sum(map(bool, (self.data.path, self.data.sources, self.data.feedback, self.data.subject))) > 1:
            raise ValueError("set exactly one of data.path (pairs to read), data.sources (several of them), "
                             "data.feedback (pairs to make) and data.subject (pairs to make of photographs)")
        if self.data.subject and self.eval.prompts is None:
            raise ValueError("eval.prompts: data.subject holds out no prompts to measure on; name some, such as those "
                             "of data.subject.prompts, on which its authors measure")
        if bool(self.data.users) != (self.model.tuning == "user"):
            raise ValueError("data.users and model.tuning user go together: the data say who prefers what, and the "
                             f"network is told of it; got data.users {'set' if self.data.users else 'unset'} and "
                             f"model.tuning {self.model.tuning}")
        if self.data.rerank and not self.data.score_with:
            raise ValueError("data.rerank needs data.score_with, the reward that decides")
        if self.data.dimensions and not any(self.data.dimensions.values()):
            raise ValueError("data.dimensions weighs every dimension 0, so no sample is better than another")
        if self.train.timestep_shift != 1 and self.train.timestep_sampling == "uniform":
            raise ValueError(f"train.timestep_shift {self.train.timestep_shift:g} does nothing with "
                             "train.timestep_sampling uniform; choose shifted or logit_normal")
        return self

    @property
    def watches_pairs(self) -> bool:
        """Whether the guard measures held-out pairs between its looks."""
        return self.guard.action != "off" and bool(self.guard.watch_pairs)

    @property
    def goals(self) -> PromptGoalSettings | None:
        """What asks for a score, of a model that learnt to be asked."""
        return self.data.goals

    def taught_by(self) -> tuple[str, ...]:
        """What the model learnt from, in words, of which paths are some of their own."""
        if self.data.feedback:
            ranked = " and ".join(map(str, self.data.feedback.rewards))
            return (f"pairs made by the model itself, ranked by {ranked}",)
        if self.data.subject:
            return (f"photographs of a subject ({self.data.subject.captions[0]}) and images of the model's own",)
        return tuple(word for each in self.data.each for word in ("and", str(each.path)))[1:]
