"""A preference: two images or videos for one prompt, as stored; or one alone, to be imitated, or with a label."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from visalign.data.rows import MediaReference
from visalign.data.table_media import TableMedia
from visalign.errors import UserError
from visalign.media.fitting import Size
from visalign.media.image_files import upright_size
from visalign.media.samples import Media, Sample
from visalign.media.source_images import notes_of, read_source, split_prompt, with_sources
from visalign.media.video_files import read_media
from visalign.storage.files import stamp_of

PAIR_FRAMES = 16
"""Frames taken of a video where no number is given."""


@dataclass(frozen=True)
class PreferencePair:
    """A prompt and two images or videos as they are stored, the chosen one preferred; `where` names its row.

    rejected: None for a captioned medium alone. strength: how much better the chosen one is. chance: the probability
    that it is better at all (1: certain). user: the annotator, hashed; None where unknown. repeats: how often it occurs
    in the data. sources: of an edit, the files of the images that the prompt speaks of; notes: what else is said of it
    (EDIT_NOTES). captions: further prompts of the same media; each visit learns from one of them or from `prompt`.
    origin: the place of its source in `data.sources`. desirable: of a single medium, whether it is good; None where
    nothing is said. rejected_prompt: of the rejected sample, where it was made for another prompt than the chosen one.
    label_margin: by how much a reward prefers the chosen one, in log-odds; turned: whether the pair was turned round
    because of it (label_strength.py).
    """

    prompt: str
    chosen: MediaReference
    rejected: MediaReference | None
    where: str
    strength: float = 1.0
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    chance: float = 1.0
    user: str | None = None
    repeats: int = 1
    sources: tuple[str, ...] = ()
    notes: dict[str, str] = field(default_factory=dict, hash=False)
    captions: tuple[str, ...] = ()
    origin: int = 0
    desirable: bool | None = None
    rejected_prompt: str | None = None
    label_margin: float | None = None
    turned: bool = False

    @property
    def asked(self) -> str:
        """What a generator is given: the prompt with its source images, as `words@@file`."""
        return with_sources(self.prompt, self.sources, self.notes)

    @property
    def asked_otherwise(self) -> tuple[str, ...]:
        """`captions` with the source images."""
        return tuple(with_sources(caption, self.sources, self.notes) for caption in self.captions)

    @property
    def rejected_asked(self) -> str | None:
        """`rejected_prompt` with the source images."""
        return self.rejected_prompt and with_sources(self.rejected_prompt, self.sources, self.notes)

    def source_images(self) -> tuple[Image.Image, ...]:
        """`sources` decoded. Raises UserError naming the row."""
        return tuple(read_source(Path(file), self.where) for file in self.sources)

    def sample(self, media: Media) -> Sample:
        """What rewards see of one of its media; of different prompts they see the rejected one's with both."""
        return edit_sample(self.rejected_prompt or self.prompt, media, self.sources, self.notes, self.where)

    def stored(self) -> tuple[MediaReference, ...]:
        """The chosen medium, and the rejected one where there is one."""
        return (self.chosen,) if self.rejected is None else (self.chosen, self.rejected)

    def identity(self) -> tuple[str, ...]:
        """What tells each of `stored` from other media without decoding it: its bytes' hash; of a file its path, size
        and time of change. Raises UserError naming the row for a file that is gone."""
        return tuple(_identity_of(data, self.where) for data in self.stored())

    def media(self, frames: int | None = None) -> tuple[Media, ...]:
        """`stored` decoded, of a video at most `frames`. Raises UserError naming the row."""
        return tuple(read_media(data.read() if isinstance(data, TableMedia) else data, self.where,
                                frames or PAIR_FRAMES) for data in self.stored())

    def swapped(self) -> "PreferencePair":
        """The opposite preference, as strong and as sure; each sample keeps its reward and its prompt."""
        prompts = {"prompt": self.rejected_prompt, "rejected_prompt": self.prompt} if self.rejected_prompt else {}
        return replace(self, chosen=self.rejected, rejected=self.chosen, chosen_reward=self.rejected_reward,
                       rejected_reward=self.chosen_reward, **prompts)

    def size(self) -> Size:
        """(height, width) of the chosen image, from its header. Raises UserError naming the row for what is none."""
        data = self.chosen
        if isinstance(data, TableMedia):
            return data.size or upright_size(data.read(), self.where)
        return upright_size(data, self.where)


def _identity_of(data: MediaReference, where: str) -> str:
    if isinstance(data, TableMedia):
        return data.digest
    if isinstance(data, bytes):
        return hashlib.sha256(data).hexdigest()
    file = Path(data).absolute()
    try:
        return f"{file} {stamp_of(file)}"
    except OSError as error:
        raise UserError(f"{where}: {file} cannot be read ({error.strerror})") from None


def edit_sample(prompt: str, media: Media, sources: tuple[str, ...], notes: dict[str, str], where: str) -> Sample:
    """What rewards see of a stored medium, with the source images of an edit. Raises UserError naming `where`."""
    known = {"source_prompt": with_sources(prompt, sources, notes), **notes} if sources else {}
    return Sample(prompt, media, None, known, tuple(read_source(Path(file), where) for file in sources))


def pair_fields(sample: Sample) -> dict:
    """The fields of a pair that say what a sample was made for."""
    if sample.prompt == sample.source_prompt:
        return {"prompt": sample.prompt}
    _, files = split_prompt(sample.source_prompt)
    return {"prompt": sample.prompt, "sources": tuple(map(str, files)), "notes": notes_of(sample.source_prompt)}
