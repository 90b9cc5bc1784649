"""Settings of a run that teaches one subject from a few photographs of it."""

from typing import Annotated

from pydantic import Field, model_validator

from visalign.config.common import RewardSpec, Settings, Text
from visalign.validation.ranges import Few, GuidanceScale, Limit, SamplingSteps


class SubjectSettings(Settings):
    """Make the pairs of one subject: each photograph against each image that the model, as it is before training,
    makes of other prompts.

    photos: a folder with about five photographs, a list of files, or the embedded `emoji:subject`.
    captions: the prompts that every photograph is learnt with, with a word that stands for the subject.
    token: that word. Rewards are given the prompts without it.
    prompts: of the images the model makes, once: a text file (one per line), a set, or a list.
    reward: scores both samples of a pair by the image's prompt. It must have a lowest and a highest value, which
    become 0 and 1.
    """

    photos: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    captions: Annotated[tuple[Text, ...], Field(min_length=1)]
    prompts: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    token: Text | None = None
    max_prompts: Limit | None = None
    samples_per_prompt: Few = 1
    reward: RewardSpec = "tiny-clip"
    steps: SamplingSteps = 16
    guidance_scale: GuidanceScale = 1.0

    @model_validator(mode="after")
    def _consistent(self):
        bare = self.token and next((text for text in self.captions if self.token not in text), None)
        if bare:
            raise ValueError(f"data.subject.token {self.token} is not in the caption '{bare}' of "
                             "data.subject.captions; write it there, or leave token out")
        return self
