"""Settings of Prompt-A-Video (arXiv 2412.15156): a language model learns to rewrite prompts for a generator."""

from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import Field, model_validator

from visalign.config.common import ModelSettings, RewardSpec, Settings, Text
from visalign.config.language import LanguageModelSettings, LanguageTrainSettings
from visalign.config.language_answers import AnswerSettings
from visalign.config.online import RewardSettings
from visalign.config.optim import OptimSettings
from visalign.validation.ranges import (
    AtLeastTwo,
    BatchSize,
    Few,
    GuidanceScale,
    Limit,
    RewardValue,
    SamplingSteps,
    Seed,
    Weight,
)

Cosine = Annotated[float, Interval(ge=-1, le=1)]
REWRITER = ("You write prompts for a generator of images and videos. Answer with one rewritten prompt that shows the "
            "same thing, and with nothing else.")


class RewriteSettings(AnswerSettings):
    """How the language model is asked for a rewrite, in training and afterwards.

    system: text of the system's turn. temperature: 0 is the likeliest rewrite, the same each time.
    """

    system: Text = REWRITER
    max_tokens: Annotated[int, Interval(ge=1, le=4096)] = 48
    temperature: Annotated[float, Interval(ge=0, le=10)] = 0.0


class GateSettings(Settings):
    """What a rewrite must fulfil to be used in place of the user's prompt.

    similarity: least cosine between prompt and rewrite, by the sentence encoder `encoder` (minilm, or a folder).
    max_words: of a rewrite. read_by: whether `every` text encoder of the generator must read all of a rewrite, or `one`
    is enough (of SD3 or FLUX the T5, where CLIP reads 77 tokens). Empty rewrites, and those with tags or quotes in
    them, never pass.
    """

    similarity: Cosine = 0.6
    encoder: Text = "minilm"
    max_words: Few = 130
    read_by: Literal["every", "one"] = "every"


class AdaptedGenerator(Settings):
    """The generator that prompts are rewritten for, which does not learn, and how it is sampled.

    seeds: renders of each rewrite while learning; all rewrites of a prompt have the same ones. steps, guidance_scale:
    null is the model's own.
    """

    model: ModelSettings
    steps: SamplingSteps | None = None
    guidance_scale: GuidanceScale | None = None
    seeds: Few = 2
    batch_size: BatchSize = 32


class AdaptRewardSettings(RewardSettings):
    """What scores the renders, always for the user's prompt. floors: least score by name of a reward (NAME.DIMENSION
    where a dimension is named) that a rewrite must reach to be learnt from. max_failures: share of the renders of a
    stage."""

    floors: dict[Text, RewardValue] = {}

    @model_validator(mode="after")
    def _enough(self):
        if not any(term.weight for term in self.models):
            raise ValueError("reward.models: name at least one reward, of a weight above 0")
        if self.offload:
            raise ValueError("reward.offload: rewards and generator take turns too often here; leave it out")
        return self


class EvolveSettings(AnswerSettings):
    """How rewrites to learn from are found: `rounds` times `per_round` more of each prompt, of which those of which no
    other is better in every reward are kept, `keep` at most.

    rules: words are dropped or exchanged, politeness and such as "a drawing of" are left out. llm: the language model
    is shown the prompt, what was tried and the scores, and writes per_round rewrites.
    """

    rounds: Few = 2
    per_round: Few = 3
    keep: Few = 4
    rules: bool = True
    llm: bool = True
    max_tokens: Annotated[int, Interval(ge=1, le=4096)] = 96
    temperature: Annotated[float, Interval(ge=0, le=10)] = 0.7

    @model_validator(mode="after")
    def _by_something(self):
        if not self.rules and not self.llm:
            raise ValueError("evolve: rules and llm are both false, so nothing writes rewrites; set one of them true")
        return self


class ImitationSettings(Settings):
    """Learning the best rewrite of each prompt (SFT)."""

    optim: OptimSettings = OptimSettings(lr=2e-4)
    train: LanguageTrainSettings = LanguageTrainSettings(steps=60, max_length=256)


class ComparisonSettings(ImitationSettings):
    """Learning from pairs of the model's own rewrites.

    candidates: rewrites of each prompt. gap: by how much a rewrite must be worse, in the weighted sum of the rewards,
    to be rejected in favour of the best or the second best. objective: one of pairs, {name: dpo, beta: 0.1, ...}.
    """

    candidates: AtLeastTwo = 5
    temperature: Annotated[float, Interval(gt=0, le=10)] = 1.0
    gap: Weight = 0.0
    objective: dict[str, Any] = {"name": "dpo", "beta": 0.1}
    optim: OptimSettings = OptimSettings(lr=1e-4)
    train: LanguageTrainSettings = LanguageTrainSettings(steps=30, max_length=256)


class AdaptEvaluationSettings(Settings):
    """Held-out prompts, which are never trained on, and seeds of their own.

    prompts: a text file, a table, a set or a list. samples_per_prompt: renders of each of a prompt's texts; of those of
    the user's own prompt the best is the baseline to beat. also: more rewards to report. features: what measures
    diversity within a prompt.
    """

    prompts: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    max_prompts: Limit | None = 24
    samples_per_prompt: AtLeastTwo = 4
    also: tuple[RewardSpec, ...] = ()
    features: Text | None = None
    seed: Seed = 1000


class AdaptOutputSettings(Settings):
    """The run's folder: stages, renders, the exported adapter, and the page."""

    folder: Text = "runs/adapt"


class AdaptConfig(Settings):
    """One run that teaches a language model to write prompts for a generator.

    prompts: what users write, to learn from: a text file, a table or a set such as polite-emoji:train.
    """

    loop: Literal["adapt"] = "adapt"
    model: LanguageModelSettings
    generator: AdaptedGenerator
    reward: AdaptRewardSettings
    prompts: Text
    max_prompts: Limit | None = None
    rewrite: RewriteSettings = RewriteSettings()
    gate: GateSettings = GateSettings()
    evolve: EvolveSettings = EvolveSettings()
    sft: ImitationSettings = ImitationSettings()
    dpo: ComparisonSettings = ComparisonSettings()
    eval: AdaptEvaluationSettings
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    output: AdaptOutputSettings = AdaptOutputSettings()

    @model_validator(mode="after")
    def _one_adapter(self):
        lora = self.model.lora
        if self.model.tuning != "lora" or lora.kind == "dora" or lora.rank_pattern or lora.alpha_pattern:
            raise ValueError("model: what both stages learn is exported as one LoRA, so model.tuning is lora, "
                             "model.lora.kind lora or rslora, without rank_pattern and alpha_pattern")
        if self.model.system is not None:
            raise ValueError("model.system: what the model is asked is rewrite.system; leave it out")
        if self.model.vision:
            raise ValueError("model.vision: rewrites are made from text; leave it out")
        if self.generator.model.edit:
            raise ValueError("generator.model.edit: prompts of edits are not rewritten; leave it out")
        return self


class SavedRewriting(Settings):
    """What `rewrite.json` holds beside an exported adapter; trained_for: the generator, by name."""

    rewrite: RewriteSettings
    gate: GateSettings
    trained_for: Text
