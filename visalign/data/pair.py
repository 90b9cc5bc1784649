"""A preference: two pictures or clips for one prompt, as stored."""

from dataclasses import dataclass

from visalign.data.rows import Picture
from visalign.media import Media
from visalign.video import read_media

FRAMES = 16
"""Frames that stand for a clip where nobody says how many are wanted."""


@dataclass(frozen=True)
class Pair:
    """A prompt and two pictures or clips (bytes or paths), the chosen one preferred; `where` names its row."""

    prompt: str
    chosen: Picture
    rejected: Picture
    where: str
    strength: float = 1.0
    chosen_reward: float | None = None
    rejected_reward: float | None = None

    def media(self, frames: int | None = None) -> tuple[Media, Media]:
        """Both pictures or clips decoded, of a clip `frames` at most. Raises UserError naming the row."""
        return tuple(read_media(data, self.where, frames or FRAMES) for data in (self.chosen, self.rejected))
