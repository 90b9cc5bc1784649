"""A preference: two images or videos for one prompt, as stored; or one alone, which is to be imitated."""

from dataclasses import dataclass

from visalign.data.rows import MediaReference
from visalign.media.samples import Media
from visalign.media.video_files import read_media

PAIR_FRAMES = 16
"""Frames that stand for a video where nobody says how many are wanted."""


@dataclass(frozen=True)
class PreferencePair:
    """A prompt and two images or videos (bytes or paths), the chosen one preferred; `where` names its row.

    rejected: None where there is nothing but a captioned medium. user: who preferred it, hashed; None where that is not
    known. repeats: how often it stands in the data.
    """

    prompt: str
    chosen: MediaReference
    rejected: MediaReference | None
    where: str
    strength: float = 1.0
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    user: str | None = None
    repeats: int = 1

    def stored(self) -> tuple[MediaReference, ...]:
        """The chosen one, and the rejected one where there is one."""
        return (self.chosen,) if self.rejected is None else (self.chosen, self.rejected)

    def media(self, frames: int | None = None) -> tuple[Media, ...]:
        """`stored` decoded, of a video `frames` at most. Raises UserError naming the row."""
        return tuple(read_media(data, self.where, frames or PAIR_FRAMES) for data in self.stored())
