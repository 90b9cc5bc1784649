"""Motion of videos, apart from their content: where and when pixels change, and how they vary within a prompt."""

import numpy as np
import torch

from visalign.evaluators.diversity import distance
from visalign.media import pixels as measures
from visalign.media.samples import Sample

FRAMES, CELLS = 9, 4


def motion_of(sample: Sample) -> np.ndarray:
    """Mean absolute luma change in each cell of a 4x4 grid between 9 evenly spaced frames, of unit length, [128].

    A frozen video is all zeros but a last entry of 1, [129], so that two frozen videos are alike and differ from all
    that move. A shorter video repeats its nearest frames.
    """
    frames = sample.frames(FRAMES)
    places = np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)
    y = torch.from_numpy(np.stack([measures.luma_of(measures.pixels_of(frames[i])) for i in places]))
    changes = torch.nn.functional.adaptive_avg_pool2d((y[1:] - y[:-1]).abs()[:, None], CELLS).flatten().double().numpy()
    size = np.linalg.norm(changes)
    return np.append(changes / size, 0.0) if size > 1e-4 else np.append(np.zeros_like(changes), 1.0)


def motion_diversity(samples: list[Sample]) -> float:
    """Mean pairwise cosine distance of one prompt's motions; NaN for images and for a single video."""
    if len(samples) < 2 or any(sample.video is None for sample in samples):
        return float("nan")
    return float(distance(torch.from_numpy(np.stack([motion_of(sample) for sample in samples]))[None]))
