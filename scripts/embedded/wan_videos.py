"""What the scripts that train the embedded video generator share: videos drawn at random, with their captions."""

import random

import numpy as np
import torch

from visalign.data.embedded_videos import DRAWN_MOTIONS, THINGS, is_unseen, kind_of, make_video


def draw_videos(count: int, seed: int) -> tuple[torch.Tensor, list[tuple[str, str]]]:
    """uint8 [N, 3, 9, 48, 48] and the (thing, motion) of each; pairs kept out of pre-training do not occur."""
    rng = random.Random(seed)
    pairs = [(thing, motion) for thing in THINGS for motion in DRAWN_MOTIONS if not is_unseen(thing, motion)]
    drawn = [rng.choice(pairs) for _ in range(count)]
    videos = np.stack([np.stack([np.asarray(frame) for frame in make_video(*pair, rng).frames]) for pair in drawn])
    return torch.from_numpy(videos).permute(0, 4, 1, 2, 3).contiguous(), drawn


def caption_of(thing: str, motion: str, rng: random.Random) -> str:
    """Named or general, with the motion or (12 %) without, where any motion is right."""
    subject = thing if rng.random() < 0.7 else kind_of(thing)
    return subject if rng.random() < 0.12 else f"{subject} {motion}"
