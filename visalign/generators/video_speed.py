"""Videos longer or shorter than a model generates: their frames are spread over its duration, with a notice.

The whole video is kept, since it is what was scored.
"""

import math

from visalign.errors import notice
from visalign.generators.shape import Shape

UNSEEN = 1.25
"""A smaller change of speed is not noticeable."""


def how_wrong(speed: float) -> float:
    """How far a speed is from 1, equal for twice and half."""
    return abs(math.log(speed)) if speed > 0 else math.inf


def say_speeds(speeds: list[tuple[float, str]], shape: Shape) -> int:
    """Print a notice of how many of (speed, where) are learnt at a wrong speed, and the worst; returns how many."""
    wrong = [(speed, where) for speed, where in speeds if how_wrong(speed) > math.log(UNSEEN)]
    if wrong:
        speed, where = max(wrong, key=lambda entry: how_wrong(entry[0]))
        made = (shape.frames - 1) / shape.fps
        pace = "stands still" if speed == 0 else f"moves {max(speed, 1 / speed):.3g} times too " \
                                                 f"{'fast' if speed > 1 else 'slowly'}"
        notice(f"{len(wrong)} of {len(speeds)} entries have videos that are not the {made:.3g} s long that this model "
               f"makes ({shape.frames} frames a video, {shape.fps:g} frames a second), so a wrong speed is learnt: "
               f"in {where}, of {speed * made:.3g} s, everything {pace}; cut the videos, or set model.frames and "
               "model.fps")
    return len(wrong)
