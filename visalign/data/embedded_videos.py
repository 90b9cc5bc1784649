"""Captioned videos drawn from the embedded emoji: one object on white that moves, grows, shrinks, turns,
bounces, blinks.

A video has 9 frames of 48x48 at 8 frames a second. All randomness (style, place, size, speed) comes from the
caller's `random.Random`, so a video is determined by its caption and its seed.
"""

import functools
import hashlib
import io
import math
import random
from dataclasses import dataclass

from PIL import Image

from visalign.data.embedded_images import EMOJI
from visalign.media.samples import Video

FRAMES, SIZE, FPS = 9, 48, 8.0
DRAWN_MOTIONS = ("moves left", "moves right", "moves up", "moves down", "grows", "shrinks", "turns", "bounces",
                 "blinks")
THINGS = ("red apple", "banana", "strawberry", "carrot", "eggplant", "pizza", "doughnut", "panda", "frog", "pig face",
          "octopus", "penguin", "lady beetle", "sunflower", "cactus", "red heart", "blue square", "star", "basketball",
          "bus")


@dataclass(frozen=True)
class Place:
    """Where a drawing is in one frame: centre in pixels from the middle, side in pixels, degrees, opacity 0..1."""

    x: float
    y: float
    side: float
    degrees: float = 0.0
    opacity: float = 1.0


def places(motion: str, rng: random.Random, frames: int = FRAMES) -> list[Place]:
    """The path of one video; `motion` is one of DRAWN_MOTIONS."""
    side, reach = rng.uniform(26, 32), rng.uniform(7.5, 10)
    x, y = rng.uniform(-3, 3), rng.uniform(-3, 3)
    turn, lean = rng.choice((-1, 1)) * rng.uniform(150, 210), rng.uniform(-8, 8)
    eased, start = rng.random() < 0.5, rng.randint(-1, 1)
    path = []
    for frame in range(frames):
        s = frame / (frames - 1)
        way = 2 * ((1 - math.cos(math.pi * s)) / 2 if eased else s) - 1  # from -1 to 1
        path.append({
            "moves left": Place(-way * reach, y, side, lean), "moves right": Place(way * reach, y, side, lean),
            "moves up": Place(x, -way * reach, side, lean), "moves down": Place(x, way * reach, side, lean),
            "grows": Place(x, y, side * (0.9 + 0.4 * way), lean),
            "shrinks": Place(x, y, side * (0.9 - 0.4 * way), lean),
            "turns": Place(x, y, side, lean + turn * (way + 1) / 2),
            "bounces": Place(x, reach * (1 - 2 * (2 * s - 1) ** 2), side, lean),
            "blinks": Place(x, y, side, lean, min(1.0, max(0.0, abs(frame - frames // 2 - start) - 0.5) / 1.5)),
        }[motion])
    return path


def draw_frame(image: Image.Image, path: list[Place]) -> Video:
    """The video in which `image`, a drawing on white, follows `path`."""
    scale = 2  # drawn at twice the size and downsampled
    frames = []
    for place in path:
        ratio = image.width / (place.side * scale)
        cos, sin = (ratio * f(math.radians(place.degrees)) for f in (math.cos, math.sin))
        cx, cy = (scale * (SIZE / 2 + v) for v in (place.x, place.y))
        middle = image.width / 2
        frame = image.transform(
            (SIZE * scale, SIZE * scale), Image.Transform.AFFINE,
            (cos, sin, middle - cos * cx - sin * cy, -sin, cos, middle + sin * cx - cos * cy),
            Image.Resampling.BICUBIC, fillcolor="white").reduce(scale)
        frames.append(Image.blend(Image.new("RGB", frame.size, "white"), frame, place.opacity))
    return Video(frames, FPS)


def make_video(thing: str, motion: str, rng: random.Random) -> Video:
    """A video of `thing` (one of THINGS) in one of its styles, without the drawings held out of pre-training."""
    return draw_frame(rng.choice(_drawings()[thing][1]), places(motion, rng))


def kind_of(thing: str) -> str:
    """The general word with its article: "a fruit"."""
    return _drawings()[thing][0]


@functools.cache
def _drawings() -> dict[str, tuple[str, list[Image.Image]]]:
    import pyarrow.parquet as pq

    found: dict[str, tuple[str, list[Image.Image]]] = {}
    for row in pq.read_table(EMOJI, columns=["name", "kind", "split", "image"]).to_pylist():
        if row["name"] in THINGS and row["split"] == "train":
            article = "an" if row["kind"][0] in "aeiou" else "a"
            _, images = found.setdefault(row["name"], (f"{article} {row['kind']}", []))
            images.append(Image.open(io.BytesIO(row["image"])).convert("RGB"))
    return found


def is_unseen(thing: str, motion: str) -> bool:
    """Whether this pair was held out of pre-training (about one in twelve)."""
    return _fraction(f"unseen {thing} {motion}") < 1 / 12


def video_captions(split: str) -> list[str]:
    """Captions with `split` train or held_out, for alignment, in a fixed mixed order.

    Named things with their motion, 30 % of them held out, including unseen pairs; general captions ("a fruit bounces")
    are in train.
    """
    captions = set()
    for thing in THINGS:
        for motion in DRAWN_MOTIONS:
            text = f"{thing} {motion}"
            held_out = is_unseen(thing, motion) or _fraction(f"alignment {text}") < 0.3
            if held_out == (split == "held_out"):
                captions.add(text)
            if split == "train":
                captions.add(f"{kind_of(thing)} {motion}")
    return sorted(captions, key=lambda text: _fraction(f"order {text}"))


def all_video_captions() -> list[str]:
    """Every caption the embedded video generator was trained on, and the unseen pairs."""
    bare = {text for thing in THINGS for text in (thing, kind_of(thing))}
    return sorted(bare | {f"{text} {motion}" for text in bare for motion in DRAWN_MOTIONS})


def _fraction(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32
