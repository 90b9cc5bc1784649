"""Settings of a latent reward, of its training, and of rollouts that follow it."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from visalign.config.common import ModelSettings, OutputSettings, Settings, Text
from visalign.config.optim import OptimSettings, refuse_fused
from visalign.config.reward import AnnotationDataSettings, RewardTrainSettings, check_peers, check_strength_of_labels
from visalign.validation.ranges import Few, FewOrNone, Portion, Signed, Weight, Width


class GuideHeadSettings(Settings):
    """The network on the generator's first blocks.

    dimensions: what is scored; the columns of the annotations. blocks: whose tokens are read, ascending; the last one
    determines the cost of a step. members: heads in the ensemble, whose mean is followed.
    """

    dimensions: Annotated[tuple[Text, ...], Field(min_length=1)] = ("VQ", "MQ", "TA")
    blocks: Annotated[tuple[FewOrNone, ...], Field(min_length=1)] = (1, 3)
    width: Width = 128
    attention_heads: Few = 4
    members: Few = 2

    @model_validator(mode="after")
    def _consistent(self):
        if len(set(self.dimensions)) != len(self.dimensions):
            raise ValueError("head.dimensions names a dimension twice")
        if list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError(f"head.blocks {list(self.blocks)} must ascend")
        if self.width % self.attention_heads:
            raise ValueError(f"head.width {self.width} must be a multiple of head.attention_heads "
                             f"{self.attention_heads}")
        return self


class RolloutGuideSettings(Settings):
    """A latent reward R that an online run's samples follow (Euphonium).

    source: a run of `visalign guide train`, or its guide folder. weights: of its dimensions, R is their sum in
    log-odds. scale: kappa; a stochastic step's sample is moved by kappa times the length of the step times the gradient
    of R; 0 moves nothing. first, last: the part of the noise range, from 1 (pure noise) to 0 (data), in which the guide
    is followed and asked.
    """

    source: Text
    weights: Annotated[dict[Text, Signed], Field(min_length=1)]
    scale: Weight = 0.01
    first: Portion = 0.65
    last: Portion = 0.05

    @model_validator(mode="after")
    def _consistent(self):
        if self.last >= self.first:
            raise ValueError(f"rollout.guide.last {self.last:g}: must be below rollout.guide.first {self.first:g}, "
                             "since noise falls from 1 to 0 along a sampling run")
        if not any(self.weights.values()):
            raise ValueError("rollout.guide.weights are all 0, so there is nothing to follow")
        return self


class GuideDataSettings(AnnotationDataSettings):
    """As for the unified reward. cache: folder for latents and text embeddings; safe to share between runs."""

    cache: Text = "~/.cache/visalign/latents"


class GuideConfig(Settings):
    """One training of a latent reward. `objective` is {name: preference, and its settings}."""

    loop: ClassVar[str] = "reward"
    model: ModelSettings
    head: GuideHeadSettings = GuideHeadSettings()
    data: GuideDataSettings
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
        check_peers(self.objective, "head.members", self.head.members)
        check_strength_of_labels(self.objective, self.data.strength)
        return self
