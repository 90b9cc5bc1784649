"""A preference: two images or videos for one prompt, as stored; or one alone, which is to be imitated."""

from dataclasses import dataclass

from visalign.data.rows import MediaReference
from visalign.media.samples import Media
from visalign.media.video_files import read_media

PAIR_FRAMES = 16
"""Frames taken of a video where no number is given."""


@dataclass(frozen=True)
class PreferencePair:
    """A prompt and two images or videos (bytes or paths), the chosen one preferred; `where` names its row.

    rejected: None for a captioned medium alone. strength: how much better the chosen one is. chance: the probability
    that it is better at all (1: certain). user: the annotator, hashed; None where unknown. repeats: how often it occurs
    in the data.
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

    def stored(self) -> tuple[MediaReference, ...]:
        """The chosen medium, and the rejected one where there is one."""
        return (self.chosen,) if self.rejected is None else (self.chosen, self.rejected)

    def media(self, frames: int | None = None) -> tuple[Media, ...]:
        """`stored` decoded, of a video at most `frames`. Raises UserError naming the row."""
        return tuple(read_media(data, self.where, frames or PAIR_FRAMES) for data in self.stored())
