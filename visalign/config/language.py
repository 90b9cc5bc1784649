"""Settings of language runs, which TRL trains: from pairs, and on a model's own answers."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import field_validator, model_validator

from visalign.config.common import GuardSettings, LoraSettings, OutputSettings, PolicyRun, RewardSpec, Settings, Text
from visalign.config.goals import GoalSettings
from visalign.config.language_answers import AnswerSettings
from visalign.config.language_feedback import PersuasionSettings, UncertaintySettings
from visalign.config.language_rollout import LanguageRolloutSettings
from visalign.config.language_search import RoundSettings, SuccessSettings, TreeSettings, check_search
from visalign.config.online import RewardSettings
from visalign.config.optim import OptimSettings
from visalign.validation.ranges import (
    AtLeastTwo,
    BatchSize,
    Few,
    Fraction,
    Limit,
    Often,
    RewardValue,
    Seed,
    Share,
    Steps,
    WaitMinutes,
    Weight,
)

SequenceTokens = Annotated[int, Interval(ge=2, le=10_000_000)]


class LanguageModelSettings(Settings):
    """Which language model, and how it is held.

    source: `smollm2`, a folder of transformers, a run of `visalign lm train`, a hub id, or FILE.gguf.
    reference: a model that the policy is compared with (null: itself as it starts).
    tuning: a LoRA on all linear layers, or all weights. lora: as of image models; its kinds are lora, rslora and dora.
    teachers: runs or models that an objective learns from, by the names it gives them; their tokenizer is this one's.
    vision: whether it is a vision-language model, whose pairs have images.
    system: text in the system's turn of every conversation (null: whatever the model's own template puts there).
    precision: arithmetic of training, by autocast; `auto` is bf16 where the hardware has it, else fp32. Weights are
    held in fp32, on a GPU those below a LoRA in this precision.
    """

    source: Text
    reference: Text | None = None
    tuning: Literal["lora", "full"] = "lora"
    lora: LoraSettings = LoraSettings()
    teachers: dict[Text, Text] = {}
    vision: bool = False
    system: Text | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _adapters(self):
        if self.lora.kind not in ("lora", "rslora", "dora"):
            raise ValueError(f"model.lora.kind {self.lora.kind}: language models take lora, rslora or dora")
        if self.lora.start:
            raise ValueError("model.lora.start: name the run or the adapter's folder in model.source instead; its "
                             "weights are merged before a new adapter learns")
        if self.tuning == "full" and self.lora != LoraSettings():
            raise ValueError("model.lora: says nothing with model.tuning full, which trains all weights; leave it out")
        return self


class TextFeedbackSettings(AnswerSettings):
    """Make the pairs: answer each prompt several times, let a reward pick best and worst.

    prompts: a text file, a table, or `topics:train` / `topics:held_out`. pairs_per_prompt: the best against the worst,
    then the second best against the second worst, ... min_gap: pairs whose rewards differ by no more are ties.
    second_reward: another one; how far it ranks a prompt's answers alike is the chance of its pairs (CREAM, arXiv
    2410.12735). uncertainty: keep only pairs that the current model is sure of (UPO). tree: pairs of steps, by search.
    success: learn from prompts that the model fails, or from what it can.
    """

    prompts: Text = "topics:train"
    max_prompts: Limit | None = None
    samples_per_prompt: AtLeastTwo = 4
    pairs_per_prompt: Few = 1
    reward: RewardSpec
    second_reward: RewardSpec | None = None
    min_gap: Weight = 0.0
    uncertainty: UncertaintySettings | None = None
    tree: TreeSettings | None = None
    success: SuccessSettings | None = None

    @property
    def rewards(self) -> tuple[RewardSpec, ...]:
        """All rewards that pairs are made with, `reward` first."""
        return tuple(filter(None, (self.reward, self.second_reward, self.tree and self.tree.self_reward)))

    @property
    def imitates(self) -> bool:
        """Whether it gives single answers to imitate, in the order in which they are learnt, in place of pairs."""
        return self.success is not None and self.success.learn == "solved"

    @model_validator(mode="after")
    def _enough(self):
        check_search(self)
        if 2 * self.pairs_per_prompt > self.samples_per_prompt:
            raise ValueError(f"data.feedback.pairs_per_prompt {self.pairs_per_prompt} takes two answers each, more "
                             f"than data.feedback.samples_per_prompt {self.samples_per_prompt}")
        return self


class TextGoalSettings(GoalSettings):
    """Reward-augmented data (arXiv 2410.08067): each pair twice, asked for the score of either answer, on `scale`.

    template: text of the system's turn, with {goal} in it.
    """

    template: Text = "Write an answer of quality {goal} out of {best}."


class OpaSettings(Settings):
    """OPA-DPO's data (arXiv 2501.09695): rows of prompt, image, own, corrected and truth, for `sft` and then `dpo`.

    Weights of the three kinds of pairs: truth over own, corrected over own, and corrected with the image over the same
    with the share masked_share of the image hidden; 0 leaves a kind out.
    """

    truth_weight: Weight = 1.0
    corrected_weight: Weight = 1.0
    masked_weight: Weight = 0.2
    masked_share: Share = 0.3


class TextDataSettings(Settings):
    """Where preference pairs of text come from.

    path: JSONL, JSON, CSV or parquet, a folder of them, or a `datasets` hub id, with the columns prompt, chosen and
    rejected (text, or lists of {role, content}; `sft` needs prompt and chosen, or completion, or messages); or leave it
    out and set `feedback`, or `persuasion`, dialogues that argue for a right or a wrong answer.
    on_error, max_skipped: what a row that cannot be used does, as for images. holdout: share of the prompts kept for
    measuring. drop_ches: leave out this share of the pairs, those whose chosen and rejected answers are most alike to
    the model (CHES, arXiv 2410.08847), which makes both less likely. goals: reward-augmented data.
    opa: OPA-DPO's data for vision-language models.
    """

    path: Text | None = None
    split: Text = "train"
    media_root: Text | None = None
    feedback: TextFeedbackSettings | None = None
    persuasion: PersuasionSettings | None = None
    goals: TextGoalSettings | None = None
    opa: OpaSettings | None = None
    on_error: Literal["stop", "skip"] = "stop"
    max_skipped: Fraction = 0.05
    max_pairs: Limit | None = None
    holdout: Fraction = 0.1
    drop_ches: Fraction = 0.0

    @property
    def named(self) -> str:
        """The source in words."""
        return str(self.path or ("feedback" if self.feedback else "persuasion"))


class LanguageRewardSettings(RewardSettings):
    """As for images; levels: of `pairs_in_group`, rewards by name with what each must reach, the most basic first.

    An answer that reaches all has level 1, the best; one that fails the first has the last level, whatever else it
    reaches. Without levels, answers are compared by their advantages.
    """

    levels: dict[Text, RewardValue] = {}


class LanguageTrainSettings(Settings):
    """Length and shape of training; batch_size counts pairs (online: answers) per process and pass.

    max_length: tokens of prompt and answer together; longer rows are counted, and more than a share of them refused.
    trl: fields of TRL's own configuration by name, for what has no setting here; those that are set here are refused.
    wait_minutes: of several processes, how long nobody may move before the run ends and names who is late.
    """

    steps: Steps = 500
    batch_size: BatchSize = 8
    gradient_accumulation: Few = 1
    max_length: SequenceTokens = 1024
    max_longer: Fraction = 0.05
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wait_minutes: WaitMinutes = 60.0
    trl: dict[Text, Any] = {}


class LanguageEvaluationSettings(AnswerSettings):
    """Answers to held-out prompts with fixed seeds, and what measures them; `every` in steps (0: only before/after).

    prompts, reward, also: as for images; features: `minilm` or the folder of another sentence encoder, for diversity
    within a prompt.
    """

    every: Often = 0
    prompts: Text | tuple[Text, ...] | None = None
    max_prompts: Limit | None = 24
    samples_per_prompt: Few = 4
    reward: RewardSpec | None = None
    also: tuple[RewardSpec, ...] = ()
    features: Text | None = None
    seed: Seed = 1000

    @field_validator("prompts", mode="before")
    @classmethod
    def _of_data(cls, value):
        return None if value == "data" else value


class LanguageOutputSettings(OutputSettings):
    """As for images; merged: also export the whole model with the adapter in its weights."""

    merged: bool = False


class LanguageSettings(PolicyRun):
    """What both kinds of language runs have."""

    loop: Literal["language"] = "language"
    model: LanguageModelSettings
    objective: dict[str, Any]
    optim: OptimSettings = OptimSettings()
    train: LanguageTrainSettings = LanguageTrainSettings()
    eval: LanguageEvaluationSettings = LanguageEvaluationSettings()
    guard: GuardSettings = GuardSettings()
    output: LanguageOutputSettings = LanguageOutputSettings()

    @model_validator(mode="after")
    def _of_trl(self):
        for name, default in (("ema_decay", 0.0), ("fused_backward", False)):
            if getattr(self.optim, name) != default:
                raise ValueError(f"optim.{name}: TRL's trainers have none; leave it out")
        if self.guard.action != "off" and not self.guard.every:
            raise ValueError("guard.every: say every how many steps the guard looks; for language models it is not "
                             "chosen by cost")
        return self


class LanguageConfig(LanguageSettings):
    """One language run from pairs (or answers alone). `objective` is {name: ..., and that method's own settings}."""

    methods: ClassVar[str] = "language"
    data: TextDataSettings = TextDataSettings()
    rounds: RoundSettings = RoundSettings()

    @model_validator(mode="after")
    def _consistent(self):
        if sum(map(bool, (self.data.path, self.data.feedback, self.data.persuasion))) > 1:
            raise ValueError("set exactly one of data.path (pairs to read), data.feedback (pairs to make) and "
                             "data.persuasion (dialogues to make)")
        if self.data.goals and self.model.system:
            raise ValueError("data.goals puts the goal into the system's turn, where model.system would stand; leave "
                             "one of them out")
        if self.data.opa and not self.model.vision:
            raise ValueError("data.opa: is for vision-language models; set model.vision=true")
        if self.model.vision and (self.data.drop_ches or self.data.goals):
            raise ValueError("data.drop_ches and data.goals: are for text alone; leave them out with model.vision")
        if (self.data.feedback or self.data.persuasion) and self.model.vision:
            raise ValueError("data.feedback and data.persuasion: make pairs of answers to text; for model.vision give "
                             "data.path")
        if self.data.persuasion and self.data.goals:
            raise ValueError("data.goals: needs pairs with rewards, which data.persuasion has not; leave it out")
        if self.rounds.warm_up and not (self.data.feedback and self.data.feedback.success):
            raise ValueError("rounds.warm_up: imitates answers that succeed; say in data.feedback.success what that is")
        return self

    def taught_by(self) -> tuple[str, ...]:
        """What the model learnt from, in words."""
        if self.data.feedback:
            feedback = self.data.feedback
            of = "pairs of steps of" if feedback.tree else "the best of" if feedback.imitates else "pairs of"
            return (f"{of} its own answers, ranked by {feedback.reward}",)
        if self.data.persuasion:
            return (f"dialogues that argue for right and wrong answers to {self.data.persuasion.path}",)
        return str(self.data.path),


class LanguageOnlineConfig(LanguageSettings):
    """One language run on the model's own answers; `advantage` has the settings of image models' online runs."""

    methods: ClassVar[str] = "language_online"
    prompts_in: ClassVar[str] = "rollout"
    rollout: LanguageRolloutSettings
    reward: LanguageRewardSettings
    advantage: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self):
        if not any(term.weight for term in self.reward.models):
            raise ValueError("reward.models: name at least one reward, of a weight above 0")
        if self.model.lora.dropout:
            raise ValueError("model.lora.dropout must be 0 in online training: answers are drawn without it, so the "
                             "policy that learns would be another than the one that answered")
        if self.model.reference:
            raise ValueError("model.reference: a model that learns from its own answers is compared with itself as it "
                             "starts; leave it out")
        if self.train.gradient_accumulation != 1:
            raise ValueError("train.gradient_accumulation: follows from rollout.prompts_per_step x rollout.group_size "
                             "and train.batch_size; leave it out")
        if self.model.vision:
            raise ValueError("model.vision: vision-language models learn from pairs here; give data.path in place of "
                             "rollout")
        return self

    def taught_by(self) -> tuple[str, ...]:
        """What the model learnt from, in words."""
        return (f"its own answers to {self.rollout.prompts}, scored by "
                f"{', '.join(str(term.reward) for term in self.reward.models)}",)
