"""Settings of reward-augmented data: what asks for a score, of texts and of images alike."""

import re
from typing import ClassVar

from pydantic import model_validator

from visalign.config.common import Settings, Text
from visalign.media.source_images import SEPARATOR
from visalign.validation.ranges import RewardValue

GOALS_FILE = "goals.json"
"""The settings in an export, from which a sampler knows how to ask for a score."""


class GoalSettings(Settings):
    """Reward-augmented data (Zhang et al. 2024, arXiv 2410.08067): each pair twice, asked for the score of either side.

    scale: what the lowest and the highest reward of the set become. template: what asks for a score, with {goal} in it,
    and {best} where the highest is to be named.
    """

    parts: ClassVar[dict[str, str]] = {"goal": "where the score is put"}
    scale: tuple[RewardValue, RewardValue] = (1.0, 10.0)
    template: Text

    @model_validator(mode="after")
    def _consistent(self):
        lacking = next((name for name in self.parts if f"{{{name}}}" not in self.template), None)
        if lacking:
            raise ValueError(f"data.goals.template must contain {{{lacking}}}, {self.parts[lacking]}")
        known = [*self.parts, "best"]
        odd = next((name for name in re.findall(r"\{(\w*)\}", self.template) if name not in known), None)
        if odd is not None:
            raise ValueError(f"data.goals.template has {{{odd}}}, which nothing is put into (allowed: "
                             f"{', '.join(f'{{{name}}}' for name in known)})")
        if self.scale[1] - self.scale[0] < 1:
            raise ValueError(f"data.goals.scale {list(self.scale)} must rise, by 1 at least, since goals are written "
                             "with one decimal")
        return self

    def goal_of(self, reward: float, least: float, most: float) -> float:
        """Where on the scale a reward is, of a set whose rewards lie from `least` to `most`."""
        low, high = self.scale
        return low + (high - low) * (reward - least) / (most - least)

    def asking(self, goal: float) -> str:
        """The template that asks for a score."""
        text = self.template.replace("{goal}", f"{goal:.1f}".removesuffix(".0"))
        return text.replace("{best}", f"{self.scale[1]:g}")

    @property
    def highest(self) -> str:
        """What asks for the highest score, as a trained model is used and measured."""
        return self.asking(self.scale[1])


class PromptGoalSettings(GoalSettings):
    """Reward-augmented data (Zhang et al. 2024, arXiv 2410.08067): each pair twice, asked for the score of either
    sample; asked for the rejected one's, chosen and rejected change places.

    scale: what the lowest and the highest reward of the set become. template: what a prompt becomes, with {prompt} and
    {goal} in it, and {best} where the highest score is to be named.
    """

    parts: ClassVar[dict[str, str]] = {"prompt": "where the prompt is put", "goal": "where the score is put"}
    template: Text = "{prompt}, quality {goal} out of {best}"

    @model_validator(mode="after")
    def _plain(self):
        if SEPARATOR in self.template:
            raise ValueError(f"data.goals.template must not contain {SEPARATOR}, which stands between a prompt and its "
                             "source images")
        return self
