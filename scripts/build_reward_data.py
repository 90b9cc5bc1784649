"""Build the annotations that tiny-reward learns from: embedded drawings, corrupted in known ways and degrees.

    python scripts/build_reward_data.py build/reward --train 32000 --held-out 2400

Writes train.parquet and held_out.parquet (prompt, a, b, alignment, quality, motion, strength, kind). Nobody annotated
anything: a label is what the corruption implies and nothing else. Which side is preferred is random.

    kind                    corruption of the worse side                      labels
    wrong_image           another drawing, of which the caption is untrue   alignment; quality: tie
    wrong_image_close     the same, from the same group (a cat for a dog)   alignment; quality: tie
    blur, noise, erased     Gaussian blur; noise; a rectangle painted over    quality
    colour_shift            hue turned and saturation changed                 quality
    <corruption>_degree     both corrupted, one more than the other           quality
    conflict                right but corrupted against wrong but clean       alignment and quality, opposite
    videos: wrong_direction  moves otherwise than the caption says             alignment
    videos: wrong_video       another drawing making the same motion            alignment
    videos: freeze           stands still                                      alignment, motion
    videos: flicker          brightness jumps between frames                   quality, motion
    videos: shuffled         frames in random order                            motion
    videos: blur, noise      every frame alike                                 quality
Held-out annotations use only drawings that are in no training annotation, nor in tiny-clip's training.
"""

import argparse
import io
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFilter

from visalign.data.embedded_images import EMOJI
from visalign.media.samples import Video, to_bytes
from visalign.media.video_files import to_video_bytes

FRAMES, SIDE = 6, 64
MOTIONS = {"moving left": (-1, 0, 0), "moving right": (1, 0, 0), "moving up": (0, -1, 0), "moving down": (0, 1, 0),
           "growing": (0, 0, 1), "shrinking": (0, 0, -1)}
DIMENSIONS = ("alignment", "quality", "motion")


def blur(image, degree, rng):
    return image.filter(ImageFilter.GaussianBlur(0.8 + 1.7 * degree))


def noise(image, degree, rng):
    pixels = np.asarray(image, dtype=np.float32)
    random_state = np.random.default_rng(rng.randrange(2**32))
    return Image.fromarray((pixels + random_state.normal(0, 12 + 45 * degree, pixels.shape)).clip(0, 255)
                           .astype(np.uint8))


def erased(image, degree, rng):
    image, share = image.copy(), 0.22 + 0.3 * degree
    side = round(SIDE * share)
    # where there is something to erase: the drawing's middle
    left, top = (rng.randrange(8, max(9, SIDE - 8 - side)) for _ in range(2))
    shade = rng.choice([(128, 128, 128), (0, 0, 0), (200, 60, 160), (90, 110, 200)])
    ImageDraw.Draw(image).rectangle([left, top, left + side, top + side], fill=shade)
    return image


def colour_shift(image, degree, rng):
    """The whole image's colour cast, its white ground too, so that it is a fault and not another colour of thing."""
    pixels = np.asarray(image, dtype=np.float32) / 255
    cast = np.ones(3, dtype=np.float32)
    cast[rng.sample(range(3), rng.choice([1, 2]))] -= 0.2 + 0.45 * degree
    return Image.fromarray((255 * (pixels * cast)).clip(0, 255).astype(np.uint8))


CORRUPTIONS = {"blur": blur, "noise": noise, "erased": erased, "colour_shift": colour_shift}


def placed(image, shift_x=0.0, shift_y=0.0, scale=1.0) -> Image.Image:
    """The drawing scaled about its middle and shifted by shares of the side, on white."""
    side = max(8, round(SIDE * scale))
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(image.resize((side, side), Image.Resampling.BICUBIC),
                 (round((SIDE - side) / 2 + shift_x * SIDE), round((SIDE - side) / 2 + shift_y * SIDE)))
    return canvas


def jittered(image, rng) -> Image.Image:
    """A small change of place and size, so that the file itself cannot be learned."""
    if rng.random() < 0.3:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = image.rotate(rng.uniform(-14, 14), Image.Resampling.BICUBIC, fillcolor="white")
    return placed(image, rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08), rng.uniform(0.7, 1.05))


def video_of(image, motion, rng) -> list[Image.Image]:
    dx, dy, growth = MOTIONS[motion]
    size, reach = rng.uniform(0.58, 0.72), rng.uniform(0.14, 0.2)
    frames = []
    for t in np.linspace(-1, 1, FRAMES):
        scale = size * (1 + 0.38 * growth * t)
        frames.append(placed(image, dx * reach * t, dy * reach * t, scale))
    return frames


class Drawings:
    def __init__(self, split: str):
        self.rows = [row for row in pq.read_table(EMOJI).to_pylist() if row["split"] == split]
        for row in self.rows:
            row["image"] = Image.open(io.BytesIO(row["image"])).convert("RGB").resize((SIDE, SIDE))
            row["true"] = {caption["text"] for caption in row["captions"]}

    def right(self, rng):
        row = rng.choice(self.rows)
        level = rng.choices(["name", "colour", "kind"], [0.6, 0.25, 0.15])[0]
        captions = [c["text"] for c in row["captions"] if c["level"] == level] or [row["name"]]
        return row, rng.choice(captions)

    def wrong(self, caption, row, rng, close=False):
        """Another drawing of which the caption is untrue; `close`: of the same group, or None if there is none."""
        choices = [other for other in self.rows if caption not in other["true"] and other["name"] != row["name"]
                   and (not close or other["group"] == row["group"])]
        return rng.choice(choices) if choices else None


def image_annotation(drawings: Drawings, rng) -> tuple[str, str, object, object, dict, float]:
    """(kind, prompt, better, worse, labels for the better side, strength)."""
    row, caption = drawings.right(rng)
    image = jittered(row["image"], rng)
    sort = rng.random()
    if sort < 0.5:
        close = rng.random() < 0.45
        other = drawings.wrong(caption, row, rng, close) or drawings.wrong(caption, row, rng)
        kind = "wrong_image_close" if other["group"] == row["group"] else "wrong_image"
        wrong = jittered(other["image"], rng)
        if rng.random() < 0.3:  # alignment must not be inferable from quality
            name = rng.choice(list(CORRUPTIONS))
            return "conflict", caption, CORRUPTIONS[name](image, rng.random(), rng), wrong, \
                {"alignment": "better", "quality": "worse"}, 1.0
        return kind, caption, image, wrong, {"alignment": "better", "quality": "tie"}, 1.0
    name = rng.choice(list(CORRUPTIONS))
    corrupt, degree = CORRUPTIONS[name], rng.random()
    if sort < 0.86:
        return name, caption, image, corrupt(jittered(row["image"], rng), degree, rng), {"quality": "better"}, \
            0.5 + degree
    low, high = sorted((0.6 * degree, 0.6 * degree + rng.uniform(0.4, 0.6)))
    state = rng.getstate()
    better = corrupt(image, low, rng)
    rng.setstate(state)
    return f"{name}_degree", caption, better, corrupt(image, high, rng), {"quality": "better"}, 0.5 + high - low


def video_annotation(drawings: Drawings, rng):
    row, caption = drawings.right(rng)
    motion = rng.choice(list(MOTIONS))
    prompt, image = f"{caption} {motion}", row["image"]
    frames = video_of(image, motion, rng)
    kind = rng.choices(["wrong_direction", "wrong_video", "freeze", "flicker", "shuffled", "blur", "noise"],
                       [0.28, 0.22, 0.12, 0.12, 0.12, 0.07, 0.07])[0]
    labels, degree = {}, rng.random()
    if kind == "wrong_direction":
        other = rng.choice([m for m in MOTIONS if m != motion])
        worse, labels = video_of(image, other, rng), {"alignment": "better"}
    elif kind == "wrong_video":
        other = drawings.wrong(caption, row, rng)
        worse, labels = video_of(other["image"], motion, rng), {"alignment": "better"}
    elif kind == "freeze":
        worse, labels = [rng.choice(frames)] * FRAMES, {"alignment": "better", "motion": "better"}
    elif kind == "flicker":
        low = 0.75 - 0.35 * degree
        worse = [Image.fromarray((np.asarray(f) * rng.choice([1.0, low])).astype(np.uint8)) for f in frames]
        worse[FRAMES // 2] = Image.fromarray((np.asarray(frames[FRAMES // 2]) * low).astype(np.uint8))
        worse[FRAMES // 2 - 1], labels = frames[FRAMES // 2 - 1], {"quality": "better", "motion": "better"}
    elif kind == "shuffled":
        order = list(range(FRAMES))
        while order in (sorted(order), sorted(order, reverse=True)):
            rng.shuffle(order)
        worse, labels = [frames[i] for i in order], {"motion": "better"}
    else:
        worse, labels = [CORRUPTIONS[kind](f, degree, rng) for f in frames], {"quality": "better"}
    return f"video_{kind}", prompt, frames, worse, labels, 0.5 + degree


def encoded(media) -> bytes:
    return to_video_bytes(Video(media, 6.0), "matroska") if isinstance(media, list) else to_bytes(media)


def build(drawings: Drawings, count: int, videos: float, seed: int) -> pa.Table:
    rng, rows = random.Random(seed), []
    for _ in range(count):
        make = video_annotation if rng.random() < videos else image_annotation
        kind, prompt, better, worse, labels, strength = make(drawings, rng)
        swapped = rng.random() < 0.5
        side = {"better": "b" if swapped else "a", "worse": "a" if swapped else "b", "tie": "tie"}
        first, second = (worse, better) if swapped else (better, worse)
        rows.append({"prompt": prompt, "a": encoded(first), "b": encoded(second), "strength": strength, "kind": kind,
                     **{name: side.get(labels.get(name)) for name in DIMENSIONS}})
    return pa.Table.from_pylist(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, default=32000)
    parser.add_argument("--held-out", type=int, default=2400)
    parser.add_argument("--videos", type=float, default=0.3, help="share of videos")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for split, count, seed in (("train", args.train, 1), ("held_out", args.held_out, 2)):
        pq.write_table(build(Drawings(split), count, args.videos, seed), args.output / f"{split}.parquet")


if __name__ == "__main__":
    main()
