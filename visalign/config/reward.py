"""Settings of the unified reward and its training."""

from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import Field, model_validator

from visalign.config.augment import AugmentSettings, check_tie_loss
from visalign.config.common import OutputSettings, Settings, Text
from visalign.config.offline import LabelStrengthSettings
from visalign.config.optim import OptimSettings, refuse_fused
from visalign.objectives.balance import MOST
from visalign.validation.ranges import (
    AtLeastTwo,
    BatchSize,
    ContextPairs,
    Few,
    FewOrNone,
    Fraction,
    Limit,
    LoraRank,
    Often,
    Portion,
    Positive,
    Seed,
    Steps,
    WaitMinutes,
    Weight,
    Width,
)


class IdealPointSettings(Settings):
    """What each user prefers, as a place among a few prototypes (PAL, arXiv 2406.08469); rewards/joint/ideal_points.py.

    prototypes: K, how many tastes users are made of. kind: prototypes are learnt points (A) or functions of the prompt
    (B, with open_clip alone). distance: `norm`, or `angle` with a learnt scale. size: numbers of a point. dropout: of
    points that samples are mapped to, while training.
    user_lr_scale: learning rate of the users' weights, of which each pair moves one user's, relative to optim.lr.
    least: users with fewer training pairs are left out and counted. equal_users: each user counts alike, not each pair.
    reseed: every so many steps a prototype that nobody prefers is put beside the most preferred one and given half of
    its users (0: never).
    """

    prototypes: AtLeastTwo = 3
    kind: Literal["A", "B"] = "A"
    distance: Literal["norm", "angle"] = "norm"
    size: Width = 32
    dropout: Fraction = 0.0
    user_lr_scale: Positive = 10.0
    least: Few = 2
    equal_users: bool = False
    reseed: Often = 0


class VariationalSettings(Settings):
    """Whose taste it is, as a latent that an encoder reads from a few of the user's pairs (VPL, arXiv 2408.10075);
    rewards/joint/variational.py.

    size: numbers of the latent. context: most of a user's other pairs that are read beside each one that is learnt
    from; how many is drawn, two at least. kl_weight: of the latent's distance from its prior; one over the pairs of a
    user makes the loss the evidence's bound. kl_period, kl_floor: steps in which that weight rises from a share of it
    to all of it, again and again. least: users with fewer training pairs are left out and counted.
    """

    size: Width = 16
    context: ContextPairs = 8
    kl_weight: Weight = 0.01
    kl_period: Limit = 200
    kl_floor: Portion = 0.1
    least: AtLeastTwo = 2


class GroupSettings(Settings):
    """A few groups of users with a reward each, found by EM (MaxMin-RLHF, arXiv 2402.08925); rewards/joint/groups.py.

    count: K, of groups. memory: the share that stays, of how well a group explains a user's labels, when the user is
    seen again. least: users with fewer training pairs are left out and counted.
    """

    count: AtLeastTwo = 2
    memory: Fraction = 0.8
    least: Few = 2


class GeneralSettings(Settings):
    """Embeddings that are compared (general preference model, arXiv 2410.02197); rewards/joint/general.py.

    blocks: k, of two numbers each; one is enough for a cycle. prompt_weights: whether the prompt weighs the blocks
    (with open_clip alone). tau: temperature; the score, in [-1, 1], is divided by it.
    """

    blocks: Few = 2
    prompt_weights: bool = False
    tau: Positive = 0.1


class CritiqueSettings(Settings):
    """What a vlm writes of a sample before it judges (MM-RLHF, arXiv 2502.10391); rewards/joint/critique.py.

    weight: of learning to write what annotators wrote, beside the pairs. max_tokens: of what it writes, at most.
    """

    weight: Weight = 1.0
    max_tokens: Annotated[int, Interval(ge=1, le=4096)] = 128


USER_HEADS = ("ideal_points", "variational", "groups")
"""Settings of heads that know users."""
HEAD_SETTINGS = (*USER_HEADS, "general")
"""Sections of `model`, each of which asks for the head of its name."""


class JointSettings(Settings):
    """The network of a unified reward.

    backbone: `open_clip` (image and text towers) or `vlm` (a vision-language model with one special token a
    dimension). source: its folder, hub id or embedded name; or the folder of a reward, or of its run, that training
    goes on from: these settings are then its own, and only `tuning` of a frozen one may be another.
    tuning: how much of the backbone learns.
    dimensions: what is scored. video_only: dimensions that a still image does not have.
    layers: blocks whose tokens are read shallow to deep by hierarchical pooling (none: the pooled output of open_clip,
    the special tokens of a vlm). residual: whether what a layer answers is added to the query of the next one (false:
    it replaces the query, as in SoliReward's code).
    critique: a vlm writes what is right and wrong first. members: heads in the ensemble; their disagreement is the
    uncertainty. frames: read evenly from each video.
    ideal_points, variational, groups, general: another head than one that gives each sample a number, the same to all.
    """

    backbone: Literal["open_clip", "vlm"] = "open_clip"
    source: Text = "tiny-clip"
    tuning: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: LoraRank = 16
    dimensions: Annotated[tuple[Text, ...], Field(min_length=1)] = ("alignment", "quality", "aesthetics", "motion")
    video_only: tuple[Text, ...] = ("motion",)
    layers: tuple[FewOrNone, ...] = ()
    residual: bool = True
    width: Width = 256
    attention_heads: Few = 4
    members: Few = 4
    frames: Few = 8
    critique: CritiqueSettings | None = None
    ideal_points: IdealPointSettings | None = None
    variational: VariationalSettings | None = None
    groups: GroupSettings | None = None
    general: GeneralSettings | None = None

    @property
    def head(self) -> str:
        """The name of the head."""
        return next((name for name in HEAD_SETTINGS if getattr(self, name) is not None), "scalar")

    @model_validator(mode="after")
    def _consistent(self):
        self._check_head()
        if self.critique:
            for what, wrong in ((f"model.backbone is {self.backbone}", self.backbone != "vlm"),
                                ("model.tuning is frozen", self.tuning == "frozen"),
                                ("model.layers names layers", bool(self.layers))):
                if wrong:
                    raise ValueError("model.critique is written by a vlm that learns to, and read at its last layer, "
                                     f"and {what}; take backbone vlm, tuning lora or full, and no layers")
        if not self.residual and not self.layers:
            raise ValueError("model.residual false is about how layers are read one after another, and model.layers "
                             "names none")
        if len(set(self.dimensions)) != len(self.dimensions):
            raise ValueError("model.dimensions names a dimension twice")
        unknown = set(self.video_only) - set(self.dimensions)
        if unknown:
            raise ValueError(f"model.video_only names {sorted(unknown)[0]}, which is not in model.dimensions")
        if self.width % self.attention_heads:
            raise ValueError(f"model.width {self.width} must be a multiple of model.attention_heads "
                             f"{self.attention_heads}")
        return self

    def _check_head(self) -> None:
        given = [f"model.{name}" for name in HEAD_SETTINGS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are two heads; give one of them")
        if self.general and len(self.dimensions) > 1:
            raise ValueError("model.general says which of two samples is better, in one dimension, and "
                             f"model.dimensions has {len(self.dimensions)}; name one")
        if self.backbone != "open_clip":
            for setting, wanted in (("model.ideal_points.kind B", self.ideal_points and self.ideal_points.kind == "B"),
                                    ("model.general.prompt_weights", self.general and self.general.prompt_weights)):
                if wanted:
                    raise ValueError(f"{setting} reads the prompt by itself, and model.backbone {self.backbone} reads "
                                     "it together with the image; leave it out, or take open_clip")


class AnnotationDataSettings(Settings):
    """Where annotations come from (see data/annotations.py for the columns).

    path: a table, a folder of tables or a preference set, or a list of these, which are learnt from together.
    holdout: share of the prompts kept for the report at the end. holdout_path: a table to report on instead.
    strength: use another reward's opinion of each label that is learnt from (null: labels as they are).
    """

    path: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    holdout_path: Text | None = None
    media_root: Text | None = None
    holdout: Fraction = 0.1
    max_annotations: Limit | None = None
    strength: LabelStrengthSettings | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """All sources."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @model_validator(mode="after")
    def _each_once(self):
        if len(set(self.paths)) != len(self.paths):
            raise ValueError("data.path names a source twice")
        return self


class BalanceSettings(Settings):
    """Weights of several sources with which none works against the others (MORE, arXiv 2312.07401);
    trainers/reward/sources.py.

    normalise: gradients of sources as they are (`none`), to unit length (`l2`), or over their `loss`. memory: the share
    of a source's gradient that stays when it is seen again.
    """

    normalise: Literal["none", "l2", "loss"] = "none"
    memory: Fraction = 0.01


class RewardDataSettings(AnnotationDataSettings):
    """Where annotations come from, and augment: pairs that are made of those for training (null: none). balance: how
    several sources are weighed against each other (null: as many pairs as each has)."""

    augment: AugmentSettings | None = None
    balance: BalanceSettings | None = None

    @model_validator(mode="after")
    def _something_to_balance(self):
        if self.balance is None:
            return self
        if not 2 <= len(self.paths) <= MOST:
            raise ValueError(f"data.balance weighs 2 to {MOST} sources against each other, and data.path names "
                             f"{len(self.paths)}")
        if self.balance.normalise == "l2" and len(self.paths) == 2:
            raise ValueError("data.balance.normalise l2 always gives two sources one half each; take none or loss")
        if self.augment:
            raise ValueError("data.augment makes pairs that are of no source, and data.balance weighs sources; leave "
                             "one of them out")
        return self


Nuisance = Literal["brightness", "saturation", "contrast", "sharpness", "jpeg_kilobytes", "prompt_length"]


class DecorrelateSettings(Settings):
    """Keep the reward from following features that are none of what it scores (FiMi-RM).

    features: which. weight: of the correlation with what a small net foretells from them. every: steps between that
    net's turns, and of each turn. queue: of how many of the newest samples correlations are taken. warm_up: share of
    the run that learns without it.
    """

    features: Annotated[tuple[Nuisance, ...], Field(min_length=1)]
    weight: Positive = 1.0
    every: Few = 8
    queue: Annotated[int, Interval(ge=64, le=65536)] = 1024
    warm_up: Fraction = 0.3

    @model_validator(mode="after")
    def _named_once(self):
        if len(set(self.features)) != len(self.features):
            raise ValueError("train.decorrelate.features names a feature twice")
        return self


class RewardTrainSettings(Settings):
    """Length of training; batch_size counts annotations per process, bootstrap gives each head its own resampling.

    backbone_lr_scale: learning rate of the backbone's own weights, relative to optim.lr. decorrelate: from what the
    reward is kept free.
    wait_minutes: of several processes, how long nobody may move before the run ends and names who is late.
    """

    steps: Steps = 1000
    batch_size: BatchSize = 32
    backbone_lr_scale: Positive = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    bootstrap: bool = True
    seed: Seed = 0
    workers: Few = 2
    device: Literal["auto", "cpu", "cuda"] = "auto"
    wait_minutes: WaitMinutes = 60.0
    decorrelate: DecorrelateSettings | None = None


def check_peers(objective: dict[str, Any], setting: str, members: int) -> None:
    """Raise ValueError where members of an ensemble choose pairs for one another and there is one."""
    if objective.get("peer_filter") and members < 2:
        raise ValueError(f"objective.peer_filter {objective['peer_filter']}: members choose the pairs of one another, "
                         f"got {setting} {members}; take at least 2")


def check_strength_of_labels(objective: dict[str, Any], strength: LabelStrengthSettings | None) -> None:
    """Raise ValueError as `check_doubts` where data.strength doubts labels."""
    if strength and (strength.soft or strength.smooth):
        check_doubts(objective, f"data.strength.{'soft' if strength.soft else 'smooth'}")


def check_doubts(objective: dict[str, Any], which: str) -> None:
    """Raise ValueError where `which` doubts labels one by one, and the loss doubts them all or does not know doubt."""
    other = next((name for name in ("label_smoothing", "flip_rate", "forward_rate") if objective.get(name)), None)
    if other:
        raise ValueError(f"{which} says of each label how sure it is, and objective.{other} of all of them; leave one "
                         "of them out")
    if objective.get("shape") == "hinge":
        raise ValueError(f"{which} says how sure a label is, and objective.shape hinge does not ask; leave it out, or "
                         "take logistic")


class RewardConfig(Settings):
    """One training of the unified reward. `objective` is {name: preference, and its settings}."""

    loop: ClassVar[str] = "reward"
    model: JointSettings = JointSettings()
    data: RewardDataSettings
    objective: dict[str, Any] = {"name": "preference"}
    optim: OptimSettings = OptimSettings()
    train: RewardTrainSettings = RewardTrainSettings()
    output: OutputSettings = OutputSettings()

    @property
    def learning_precision(self) -> str:
        """The arithmetic in which gradients are computed."""
        return self.train.precision

    @model_validator(mode="after")
    def _consistent(self):
        refuse_fused(self.optim, "a reward model's gradients are clipped together")
        check_peers(self.objective, "model.members", self.model.members)
        check_strength_of_labels(self.objective, self.data.strength)
        if self.model.groups:
            for setting, given in (("train.bootstrap", self.train.bootstrap),
                                   ("objective.peer_filter", self.objective.get("peer_filter"))):
                if given:
                    raise ValueError(f"{setting} is {given}, and model.groups decides itself which pairs a group "
                                     f"learns from; set {setting} to {False if given is True else 0}")
        check_tie_loss(self.data.augment, self.objective)
        asks = next((name for name in USER_HEADS if getattr(self.model, name)), None)
        if self.data.augment and asks:
            raise ValueError(f"data.augment makes pairs that are nobody's taste, and model.{asks} learns whose taste "
                             "is whose; leave one of them out")
        if self.train.decorrelate and self.model.general:
            raise ValueError("train.decorrelate correlates a sample's reward, and model.general gives it none; leave "
                             "one of them out")
        return self
