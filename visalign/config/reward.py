"""Settings of the unified reward and its training."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from visalign.config.common import OutputSettings, Settings, Text
from visalign.config.optim import OptimSettings, refuse_fused
from visalign.validation.ranges import (
    BatchSize,
    Few,
    FewOrNone,
    Fraction,
    Limit,
    LoraRank,
    Positive,
    Seed,
    Steps,
    WaitMinutes,
    Width,
)


class JointSettings(Settings):
    """The network of a unified reward.

    backbone: `open_clip` (image and text towers) or `vlm` (a vision-language model with one special token a
    dimension). source: its folder, hub id or embedded name. tuning: how much of the backbone learns.
    dimensions: what is scored. video_only: dimensions that a still image does not have.
    layers: blocks whose tokens are read shallow to deep by hierarchical pooling (none: the pooled output of open_clip,
    the special tokens of a vlm).
    members: heads in the ensemble; their disagreement is the uncertainty. frames: read evenly from each video.
    """

    backbone: Literal["open_clip", "vlm"] = "open_clip"
    source: Text = "tiny-clip"
    tuning: Literal["frozen", "lora", "full"] = "frozen"
    lora_rank: LoraRank = 16
    dimensions: Annotated[tuple[Text, ...], Field(min_length=1)] = ("alignment", "quality", "aesthetics", "motion")
    video_only: tuple[Text, ...] = ("motion",)
    layers: tuple[FewOrNone, ...] = ()
    width: Width = 256
    attention_heads: Few = 4
    members: Few = 4
    frames: Few = 8

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


class AnnotationDataSettings(Settings):
    """Where annotations come from (see data/annotations.py for the columns).

    holdout: share of the prompts kept for the report at the end. holdout_path: a table to report on instead.
    """

    path: Text
    holdout_path: Text | None = None
    media_root: Text | None = None
    holdout: Fraction = 0.1
    max_annotations: Limit | None = None


class RewardTrainSettings(Settings):
    """Length of training; batch_size counts annotations per process, bootstrap gives each head its own resampling.

    backbone_lr_scale: learning rate of the backbone's own weights, relative to optim.lr.
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


def check_peers(objective: dict[str, Any], setting: str, members: int) -> None:
    """Raise ValueError where members of an ensemble choose pairs for one another and there is one."""
    if objective.get("peer_filter") and members < 2:
        raise ValueError(f"objective.peer_filter {objective['peer_filter']}: members choose the pairs of one another, "
                         f"got {setting} {members}; take at least 2")


class RewardConfig(Settings):
    """One training of the unified reward. `objective` is {name: preference, and its settings}."""

    loop: ClassVar[str] = "reward"
    model: JointSettings = JointSettings()
    data: AnnotationDataSettings
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
        return self
