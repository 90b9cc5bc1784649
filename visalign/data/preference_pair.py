"""A preference: two images or videos for one prompt, as stored."""

from dataclasses import dataclass

from visalign.data.rows import MediaReference
from visalign.media.samples import Media
from visalign.media.video_files import read_media

PAIR_FRAMES = 16
"""Frames that stand for a video where nobody says how many are wanted."""


@dataclass(frozen=True)
class PreferencePair:
    """A prompt and two images or videos (bytes or paths), the chosen one preferred.

    where: names its row. user: who preferred it, hashed; None where that is not known.
    """

    prompt: str
    chosen: MediaReference
    rejected: MediaReference
    where: str
    strength: float = 1.0
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    user: str | None = None

    def media(self, frames: int | None = None) -> tuple[Media, Media]:
        """Both images or videos decoded, of a video `frames` at most. Raises UserError naming the row."""
        return tuple(read_media(data, self.where, frames or PAIR_FRAMES) for data in (self.chosen, self.rejected))
