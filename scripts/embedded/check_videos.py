"""Are the videos of tiny-wan recognisable? A contact sheet for people, tracking for the record.

    python scripts/embedded/check_videos.py visalign/assets/tiny-wan --sheet docs/pictures/tiny-wan.png

Tracking (visalign/media/motion_tracking.py) follows the object in each video and names the motion that fits best;
printed is how often that is the prompt's, of all nine motions and of the four directions alone, for captions the
model was trained on, for pairs of thing and motion that it never saw, and for real videos. tiny-clip names the thing
among all of them, from the mean over frames.
"""

import argparse
import json
import random
from pathlib import Path

import torch

from visalign.config import ModelSettings
from visalign.data.embedded_videos import DRAWN_MOTIONS, THINGS, is_unseen, make_video
from visalign.generators import load_generator
from visalign.media.motion_tracking import motion_of_video
from visalign.media.samples import Sample, Video
from visalign.media.video_files import save_sheet
from visalign.rewards import load_reward
from visalign.rewards.video_rules import motions_in

DIRECTIONS = {"left", "right", "up", "down"}


def share(hits: list[bool]) -> dict:
    return {"right": round(sum(hits) / max(1, len(hits)), 3), "of": len(hits)}


def motions(pairs: list[tuple[str, str]], videos: list[Video]) -> dict:
    """How often the tracked motion is the asked one, of nine and of four."""
    asked = [motions_in(motion)[0] for _, motion in pairs]
    found = [motion_of_video(video) for video in videos]
    hits = list(zip(asked, found, strict=True))
    return {"motion (chance 0.11)": share([a == b for a, b in hits]),
            "direction (chance 0.25)": share([a == b for a, b in hits if a in DIRECTIONS])}


def things(pairs: list[tuple[str, str]], videos: list[Video]) -> dict:
    reward = load_reward("tiny-clip")
    names = reward.text_features(list(THINGS))
    features = torch.stack([reward.features(video.evenly(5)).mean(0) for video in videos])
    found = (features @ names.T).argmax(1).tolist()
    return {"thing (chance 0.05)": share([THINGS[i] == thing for i, (thing, _) in zip(found, pairs, strict=True)])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--sheet", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--count", type=int, default=108, help="videos for each measure")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator = load_generator(ModelSettings(source=args.model, attention="math", prompt_tokens=8), "cpu")

    def sample(pairs: list[tuple[str, str]]) -> list[Video]:
        batches = generator.sample([" ".join(pair) for pair in pairs], list(range(len(pairs))), steps=args.steps,
                                   guidance_scale=args.guidance_scale)
        return [video for batch in batches for video in batch]

    shown = [(THINGS[(2 * i + i // 10) % len(THINGS)], DRAWN_MOTIONS[i % len(DRAWN_MOTIONS)]) for i in range(18)]
    save_sheet([(" ".join(pair), [Sample("", video).media])
                for pair, video in zip(shown, sample(shown), strict=True)], args.sheet, cell=72, label_width=170)
    rng = random.Random(0)
    every = [(thing, motion) for thing in THINGS for motion in DRAWN_MOTIONS]
    seen, unseen = ([pair for pair in every if is_unseen(*pair) is wanted] for wanted in (False, True))
    known = [seen[i] for i in (rng.sample(range(len(seen)), min(args.count, len(seen))))]
    new = [unseen[i % len(unseen)] for i in range(min(args.count, 4 * len(unseen)))]
    real = [make_video(*pair, rng) for pair in known]
    report = {}
    for name, pairs, videos in (("real videos", known, real), ("captions it was trained on", known, sample(known)),
                               ("pairs it never saw", new, sample(new))):
        report[name] = motions(pairs, videos) | things(pairs, videos)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
