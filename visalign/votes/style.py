"""How the media of a vote look, apart from what they show: what a fair ranking takes out of the votes (fair.py).

Of images luminance, saturation, sharpness and file size as a JPEG, as `evaluate` measures style; of videos also motion,
the mean luma change between frames; of answers words, list markers and capitals. Each file is measured once, and the
numbers kept in the vote database. """

from collections.abc import Callable
from pathlib import Path

from visalign.errors import UserError
from visalign.evaluators.style import FRAMES, STYLE, style_of
from visalign.evaluators.text_style import text_style_of
from visalign.media.answers import Answer
from visalign.media.samples import Media, Sample
from visalign.media.text_measures import TEXT_STYLE
from visalign.media.video_files import read_media
from visalign.rewards.video_rules import mean_changes
from visalign.votes.book import VoteDatabase

CONTROLS = {"image": ("luminance", "saturation", "sharpness", "jpeg_kilobytes"),
            "text": ("words", "list_markers", "capitals")}
MOTION = "motion"
ANSWER_SUFFIX = ".txt"
"""The ending of a medium that is a text."""


def kept_media(file: Path, frames: int) -> Media:
    """What a file of the votes holds. Raises UserError when it cannot be read."""
    if not file.name.endswith(ANSWER_SUFFIX):
        return read_media(file, file.name, frames)
    try:
        return Answer(file.read_bytes().decode())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"votes {file}: cannot be read as a text ({error})") from None


def look_of(media: Media) -> dict[str, float]:
    """CONTROLS of a medium, and the MOTION of a video."""
    sample = Sample("", media)
    if sample.answer is not None:
        measured = dict(zip(TEXT_STYLE, text_style_of(sample).tolist(), strict=True))
        return {name: measured[name] for name in CONTROLS["text"]}
    measured = dict(zip(STYLE, style_of(sample).tolist(), strict=True))
    moving = {} if sample.video is None else {MOTION: float(mean_changes(sample, FRAMES).mean())
                                             if len(sample.video.frames) > 1 else 0.0}
    return {name: measured[name] for name in CONTROLS["image"]} | moving


def unmeasured(book: VoteDatabase) -> list[str]:
    """Files of matchups whose style is not known yet, each once; those of anchors do not count."""
    known = book.looks()
    return list(dict.fromkeys(side.file for matchup in book.matchups() if not matchup.is_anchor
                              for side in (matchup.a, matchup.b) if side.file not in known))


def measure_style(book: VoteDatabase, told: Callable[[list[str]], list[str]] = list) -> int:
    """Measure all files that are new; how many those were. told: passes them through, with a progress bar say. Raises
    UserError for a file that cannot be read."""
    new = unmeasured(book)
    for file in told(new):
        book.add_look(file, look_of(kept_media(book.within(file), FRAMES)))
    return len(new)
