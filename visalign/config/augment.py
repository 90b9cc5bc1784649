"""Settings of the pairs that a reward's training adds to its annotations, labelled by how they are made."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from visalign.config.common import Settings, Text
from visalign.validation.ranges import Share, Within

ASPECTS: dict[str, str] = {
    **dict.fromkeys(("colour", "object", "count"), "alignment"),
    **dict.fromkeys(("blur", "jpeg", "hole", "noise", "stretch"), "quality"),
    **dict.fromkeys(("shuffle", "freeze"), "motion"),
}
"""Of each causal change the aspect that suffers: what the prompt says, how an image looks, how a video moves."""

CausalName = Literal["colour", "object", "count", "blur", "jpeg", "hole", "noise", "stretch", "shuffle", "freeze"]
NeutralName = Literal["prompt", "reencode", "crop", "resize"]

ObjectGroups = Annotated[tuple[Annotated[tuple[Text, ...], Field(min_length=2)], ...], Field(min_length=1)]
"""Words, in groups of which a sample shows no two at one place."""


class AugmentSettings(Settings):
    """Pairs that are made of annotations (Crome); data/augment.py.

    causal: changes for the worse of one aspect alone, of which the changed side loses. A word of the prompt for another
    one: colour, object, count. Of images, and of all frames of videos: blur, jpeg (quality 10), hole, noise, stretch.
    Of videos: shuffle, freeze.
    neutral: what should change nothing, so that it is a tie. prompt: both samples with the prompt of another
    annotation, a tie in alignment alone. reencode (JPEG, quality 95), crop (1 % of each side) and resize (125 % and
    back) of one sample: ties in everything that is scored.
    share: of the annotations, of which one causal and one neutral pair are made each, where one fits.
    alignment, quality, motion: which dimension is labelled in each aspect.
    objects: groups of words for `object`; a word is replaced by another one of its group (null: everyday things).
    keep_below: of a training that goes on from a trained reward: only pairs whose label that reward gives less than
    this probability, of a tie twice that of the less likely side (null: all pairs).
    """

    causal: tuple[CausalName, ...] = ()
    neutral: tuple[NeutralName, ...] = ()
    share: Share = 0.5
    alignment: Text = "alignment"
    quality: Text = "quality"
    motion: Text = "motion"
    objects: ObjectGroups | None = None
    keep_below: Within | None = None

    @model_validator(mode="after")
    def _consistent(self):
        for name in ("causal", "neutral"):
            given = getattr(self, name)
            if len(set(given)) != len(given):
                raise ValueError(f"data.augment.{name} names a change twice")
        if not self.causal and not self.neutral:
            raise ValueError("data.augment: names no change; list some in causal, in neutral, or in both")
        if self.objects and "object" not in self.causal:
            raise ValueError("data.augment.objects is for data.augment.causal object, which is not named")
        return self

    def dimension_of(self, name: str) -> str:
        """In which dimension a causal change, or the neutral `prompt`, is labelled."""
        return getattr(self, ASPECTS.get(name, "alignment"))

    def check(self, dimensions: tuple[str, ...], frames: int, gives: str) -> None:
        """Raise ValueError for changes that a reward of these dimensions, that reads so many frames, cannot learn from.

        gives: what its head gives.
        """
        from visalign.media.changes import FRAMES_IN_ORDER

        named = [(f"causal {name}", name) for name in self.causal]
        for where, name in [*named, *([("neutral prompt", "prompt")] if "prompt" in self.neutral else [])]:
            if self.dimension_of(name) not in dimensions:
                aspect = ASPECTS.get(name, "alignment")
                raise ValueError(f"data.augment.{where}: is labelled in {self.dimension_of(name)}, which is not in "
                                 f"model.dimensions ({', '.join(dimensions)}); say with data.augment.{aspect} which of "
                                 "them it is, or leave the change out")
        for where, name in named:
            if ASPECTS[name] == "alignment" and gives != "rewards":
                raise ValueError(f"data.augment.{where}: compares one sample under two prompts, and model.general "
                                 "compares samples of one; leave it out")
            if ASPECTS[name] == "motion" and frames < FRAMES_IN_ORDER:
                raise ValueError(f"data.augment.{where}: needs an order of frames, and model.frames is {frames}; read "
                                 f"at least {FRAMES_IN_ORDER}")


def check_tie_loss(augment: AugmentSettings | None, objective: dict[str, Any]) -> None:
    """Raise ValueError where ties are made and not learnt from."""
    if augment and augment.neutral and objective.get("ties", "drop") == "drop":
        raise ValueError("data.augment.neutral makes ties, which objective.ties drop leaves out; use soft, rao_kupper, "
                         "davidson or win_tie")
