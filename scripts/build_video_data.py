"""Build captioned videos of the embedded drawings, and comparisons of right ones with corrupted ones.

    python scripts/build_video_data.py build/videos                     800 + 200 comparisons, half a minute
    python scripts/build_video_data.py build/videos --train 3000        for a latent reward

Writes videos/NNNNN.mp4 (9 frames of 48x48), samples.jsonl (prompt and file of every right video), train.csv and
held_out.csv in VideoGen-RewardBench's columns: path_A, path_B, prompt, VQ (visual quality), MQ (motion quality) and
TA (text alignment), each A, B, same or empty, and kind. Nobody annotated anything: a label is what the corruption
implies.

    kind           the worse side                                     labels
    wrong_motion   moves otherwise than the caption says              TA; VQ and MQ: same
    wrong_thing    another thing making the same motion               TA; VQ and MQ: same
    frozen         stands still                                       TA, MQ; VQ: same
    shuffled       frames in random order                             MQ; VQ: same
    flicker        brightness jumps between frames                    VQ, MQ; TA: same
    blurred        every frame alike                                  VQ; MQ and TA: same
    noisy          noise drawn anew for every frame                                   VQ; TA: same

Held-out comparisons use captions of videos:held_out, the others those of videos:train.
"""

import argparse
import csv
import json
import random
from pathlib import Path

import numpy as np
from build_reward_data import blur, noise
from PIL import Image
from tqdm import tqdm

from visalign.data.embedded_videos import DRAWN_MOTIONS, THINGS, make_video, video_captions
from visalign.media.samples import Video
from visalign.media.video_files import to_video_bytes

COLUMNS = ("path_A", "path_B", "prompt", "VQ", "MQ", "TA", "kind")
KINDS = {"wrong_motion": 0.24, "wrong_thing": 0.2, "frozen": 0.12, "shuffled": 0.12, "flicker": 0.12, "blurred": 0.1,
         "noisy": 0.1}


def named(split: str) -> list[tuple[str, str, str]]:
    """(caption, thing, motion) of the captions of a split that name their thing."""
    known = {f"{thing} {motion}": (thing, motion) for thing in THINGS for motion in DRAWN_MOTIONS}
    return [(caption, *known[caption]) for caption in video_captions(split) if caption in known]


def flickering(frames: list[Image.Image], rng: random.Random) -> list[Image.Image]:
    dark = rng.uniform(0.4, 0.75)
    levels = [1.0, dark] * len(frames)
    rng.shuffle(levels)
    return [Image.fromarray((np.asarray(frame) * level).astype(np.uint8))
            for frame, level in zip(frames, [1.0, dark, *levels], strict=False)]


def shuffled(frames: list[Image.Image], rng: random.Random) -> list[Image.Image]:
    order = list(range(len(frames)))
    while order in (sorted(order), sorted(order, reverse=True)):
        rng.shuffle(order)
    return [frames[i] for i in order]


def worse_side(kind: str, thing: str, motion: str, right: Video, rng: random.Random) -> tuple[Video, dict[str, str]]:
    """The corrupted video, and which labels go to the right one ("better") or to neither ("same")."""
    degree, frames = rng.random(), right.frames
    if kind == "wrong_motion":
        other = rng.choice([each for each in DRAWN_MOTIONS if each != motion])
        return make_video(thing, other, rng), {"TA": "better", "VQ": "same", "MQ": "same"}
    if kind == "wrong_thing":
        other = rng.choice([each for each in THINGS if each != thing])
        return make_video(other, motion, rng), {"TA": "better", "VQ": "same", "MQ": "same"}
    made, labels = {
        "frozen": lambda: ([rng.choice(frames)] * len(frames), {"TA": "better", "MQ": "better", "VQ": "same"}),
        "shuffled": lambda: (shuffled(frames, rng), {"MQ": "better", "VQ": "same"}),
        "flicker": lambda: (flickering(frames, rng), {"VQ": "better", "MQ": "better", "TA": "same"}),
        "blurred": lambda: ([blur(f, degree, rng) for f in frames], {"VQ": "better", "MQ": "same", "TA": "same"}),
        "noisy": lambda: ([noise(f, degree, rng) for f in frames], {"VQ": "better", "TA": "same"}),
    }[kind]()
    return Video(made, right.fps), labels


def build(split: str, count: int, out: Path, first: int, rng: random.Random) -> list[dict]:
    """Write the videos of `count` comparisons and give their rows; files are numbered from `first`."""
    captions, rows = named(split), []
    for number in tqdm(range(count), desc=split, unit="comparison"):
        caption, thing, motion = rng.choice(captions)
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        right = make_video(thing, motion, rng)
        wrong, labels = worse_side(kind, thing, motion, right, rng)
        files = [f"videos/{first + 2 * number + side:05d}.mp4" for side in (0, 1)]
        for file, video in zip(files, (right, wrong), strict=True):
            (out / file).write_bytes(to_video_bytes(video))
        is_second = rng.random() < 0.5
        side = {"better": "B" if is_second else "A", "same": "same"}
        a, b = reversed(files) if is_second else files
        rows.append({"path_A": a, "path_B": b, "prompt": caption, "kind": kind, "right": files[0],
                     **{name: side.get(labels.get(name), "") for name in ("VQ", "MQ", "TA")}})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--held-out", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    (args.output / "videos").mkdir(parents=True, exist_ok=True)
    rng, samples, first = random.Random(args.seed), [], 0
    for split, count in (("train", args.train), ("held_out", args.held_out)):
        rows = build(split, count, args.output, first, rng)
        first += 2 * count
        samples += [json.dumps({"prompt": row["prompt"], "video": row.pop("right")}) for row in rows]
        with (args.output / f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    (args.output / "samples.jsonl").write_text("\n".join(samples) + "\n")


if __name__ == "__main__":
    main()
