"""Settings of what a run learns from: several sources in one run, and how captions become prompts."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from visalign.config.common import Settings, Text
from visalign.validation.ranges import Few, FewOrNone, Fraction, Limit, Positive, Within

DataFormat = Literal["auto", "pickapic", "hpd", "hpdv3", "editreward", "imagereward", "table", "comparisons", "ratings",
                     "captioned", "hub"]
PromptsFrom = Literal["auto", "sidecar", "metadata", "names", "auto+names"]
"""auto: a text beside the file, else the file's metadata; auto+names: else also the file's name."""


class CaptionSettings(Settings):
    """How captions become the prompts that a run learns. Of several captions of one medium each visit draws one.

    columns: of a table, those that hold captions, each a text or a list of texts, such as [caption_short, caption_long]
    (null: prompt, caption or text). prompts_from: where a folder's captions are: in texts beside the files, in the
    files' metadata, or in their names. default: of media that have none there.
    wildcards: each line of a text is a caption of its own, and one of {red|blue} is taken, as in kohya's files.
    prefix, suffix: written before and after every caption as they are, such as a word that the model shall learn.
    separator: between tags. shuffle_tags: change their order, but for the first `keep_tags`; tag_dropout: leave each of
    the others out with this chance.
    variants: how many wordings of each caption are made ahead where tags or wildcards change it, the first as written.
    """

    columns: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    prompts_from: PromptsFrom = "auto"
    default: Text | None = None
    wildcards: bool = False
    prefix: str = ""
    suffix: str = ""
    separator: Text = ","
    shuffle_tags: bool = False
    keep_tags: FewOrNone = 0
    tag_dropout: Fraction = 0.0
    variants: Few = 8

    @property
    def of_tags(self) -> bool:
        """Whether tags are changed."""
        return self.shuffle_tags or self.tag_dropout > 0

    @model_validator(mode="after")
    def _consistent(self):
        if self.keep_tags and not self.of_tags:
            raise ValueError(f"data.captions.keep_tags {self.keep_tags} does nothing without "
                             "data.captions.shuffle_tags or data.captions.tag_dropout")
        if self.columns and len(set(self.columns)) < len(self.columns):
            raise ValueError("data.captions.columns names a column twice")
        return self


class SourceSettings(Settings):
    """One of several sources of a run.

    path, format, split, media_root, max_pairs: as in `data`.
    repeats: how often an epoch visits each of its pairs (null: once). share: instead of it, which part of all visits
    its pairs get, whatever their number.
    loss_weight: of the loss of its pairs, beside 1 for the others.
    prior: images of what the model shall still make as before (for objective sft): they are not held out, their
    captions stay as they are, and without share or repeats they get half of all visits.
    caption: of media that have none of their own.
    """

    path: Text
    format: DataFormat = "auto"
    split: Text = "train"
    media_root: Text | None = None
    max_pairs: Limit | None = None
    repeats: Few | None = None
    share: Within | None = None
    loss_weight: Positive = 1.0
    prior: bool = False
    caption: Text | None = None

    @model_validator(mode="after")
    def _consistent(self):
        if self.repeats and self.share:
            raise ValueError(f"data.sources: {self.path} has both repeats and share; give one of them")
        return self

    def captions_of(self, common: CaptionSettings) -> CaptionSettings:
        """How this source's captions become prompts, where `common` is how those of the run do."""
        own = {"default": self.caption or common.default}
        return common.model_copy(update=own | dict.fromkeys(("prefix", "suffix"), "")
                                 | {"shuffle_tags": False, "tag_dropout": 0.0} if self.prior else own)


SHARED_OUT = 0.5
"""The part of all visits that prior sources have together where nothing else is said."""


def shares_of(sources: tuple[SourceSettings, ...]) -> list[float | None]:
    """The share of all visits of each source, None where its number of pairs decides."""
    unsaid = [each.prior and not each.share and not each.repeats for each in sources]
    return [SHARED_OUT / sum(unsaid) if free else each.share for each, free in zip(sources, unsaid, strict=True)]


def check_shares(sources: tuple[SourceSettings, ...]) -> None:
    """Raise ValueError for shares that cannot be kept."""
    shares = shares_of(sources)
    total = sum(filter(None, shares))
    if all(each.prior for each in sources):
        raise ValueError("data.sources: all are prior sets, so nothing new is learnt; name the images to learn too")
    if None in shares and total >= 1:
        raise ValueError(f"data.sources: the shares add up to {total:g}, and the sources without one get nothing")
    if None not in shares and abs(total - 1) > 1e-6:
        raise ValueError(f"data.sources: every source has a share, and they add up to {total:g} instead of 1")
