"""Settings of a reward model of text, trained by TRL on pairs."""

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from visalign.config.common import OutputSettings, PolicyRun
from visalign.config.language import LanguageModelSettings, LanguageTrainSettings, TextDataSettings
from visalign.config.optim import OptimSettings


class LanguageRewardConfig(PolicyRun):
    """One training of a classifier with one output on pairs of text (Bradley-Terry), from a language model's weights.

    `objective` is {name: bradley_terry, and its settings}.
    """

    methods: ClassVar[str] = "language_reward"
    loop: Literal["language"] = "language"
    model: LanguageModelSettings
    data: TextDataSettings
    objective: dict[str, Any] = {"name": "bradley_terry"}
    optim: OptimSettings = OptimSettings()
    train: LanguageTrainSettings = LanguageTrainSettings()
    output: OutputSettings = OutputSettings()

    @model_validator(mode="after")
    def _consistent(self):
        others = (self.data.feedback, self.data.persuasion, self.data.goals, self.data.opa, self.data.drop_ches)
        if not self.data.path or any(others):
            raise ValueError("data: a reward model of text learns from the pairs of data.path alone; leave feedback, "
                             "persuasion, goals, opa and drop_ches out")
        if self.model.vision or self.model.teachers or self.model.reference:
            raise ValueError("model: a reward model of text has no vision, teachers or reference; leave them out")
        return self
