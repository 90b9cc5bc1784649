"""How clips move, apart from what they show: where and when pixels change, and how much that varies within a prompt."""

import numpy as np
import torch

from visalign import measures
from visalign.evaluators.variety import distance
from visalign.media import Sample

FRAMES, CELLS = 9, 4


def motion_of(sample: Sample) -> np.ndarray:
    """Mean absolute luma change in each cell of a 4x4 grid between 9 evenly spaced frames, of unit length, [128].

    A frozen clip is all zeros but a last entry of 1, [129], so that two frozen clips are alike and differ from all
    that move. A shorter clip shows its nearest frames again.
    """
    frames = sample.frames(FRAMES)
    places = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    y = torch.from_numpy(np.stack([measures.luma_of(measures.pixels_of(frames[i])) for i in places]))
    changes = torch.nn.functional.adaptive_avg_pool2d((y[1:] - y[:-1]).abs()[:, None], CELLS).flatten().double().numpy()
    size = np.linalg.norm(changes)
    return np.append(changes / size, 0.0) if size > 1e-4 else np.append(np.zeros_like(changes), 1.0)


def motion_variety(samples: list[Sample]) -> float:
    """Mean pairwise cosine distance of one prompt's motions; NaN for pictures and for a single clip."""
    if len(samples) < 2 or any(sample.video is None for sample in samples):
        return float("nan")
    return float(distance(torch.from_numpy(np.stack([motion_of(sample) for sample in samples]))[None]))
