"""Style statistics of single generations, their spread, and how far a model drifted from its base.

Over-exposure and one style for everything are known failures of over-optimised models. Images are
measured at 256 pixels on the shorter side at most, so that models of one resolution are compared at one scale.
"""

import numpy as np
import torch
from PIL import Image

from visalign.evaluators.looks import ONE_LOOK, Intervals
from visalign.evaluators.statistics import Estimate
from visalign.evaluators.text_style import TEXT_SCALE
from visalign.media import pixels as measures
from visalign.media.samples import Sample

STYLE = ("luminance", "highlights", "shadows", "saturation", "contrast", "colourfulness", "sharpness", "edges",
         "jpeg_kilobytes")
"""highlights, shadows: shares of pixels with luma above 0.98 and below 0.02. edges: share with a luma slope > 0.1."""
SCALE = dict(zip(STYLE, (1.0, 1.0, 1.0, 1.0, 0.5, 100.0, 1.0, 1.0, 10.0), strict=True))
"""Natural scale of each; a base that hardly varies counts as varying by 1 % of it, or its drift would be unbounded."""
SIDE, FRAMES, BINS = 256, 8, 16


def style_of(sample: Sample) -> np.ndarray:
    """STYLE of an image, or its mean over up to 8 frames of a video, float64 [9]."""
    return np.mean([_of_image(frame) for frame in sample.frames(FRAMES)], axis=0)


def _of_image(image: Image.Image) -> list[float]:
    if min(image.size) > SIDE:
        scale = SIDE / min(image.size)
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    pixels = measures.pixels_of(image)
    y = measures.luma_of(pixels)
    tensor = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
    return [float(y.mean()), float((y > 0.98).mean()), float((y < 0.02).mean()),
            *(float(of(tensor)) for of in (measures.saturation, measures.contrast, measures.colourfulness)),
            measures.sharpness(y), measures.edge_density(y), measures.jpeg_kilobytes(image)]


def drift(name: str, base: np.ndarray, after: np.ndarray, spread: float, intervals: Intervals = ONE_LOOK,
          share: float = 1.0) -> Estimate:
    """Change of a statistic's mean in standard deviations of the base's single generations.

    base, after: per-prompt means [P] in one order. spread: the base's standard deviation, at least 1 % of its scale
    (SCALE, TEXT_SCALE). share: of the error of `intervals`.
    """
    change = intervals.mean(np.asarray(after) - np.asarray(base), share)
    return change.scaled(1 / max(spread, 0.01 * (SCALE | TEXT_SCALE)[name]))


def entropies(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Entropy (nats) of a statistic [P, K] over 16 equal bins from low to high: mean within prompts, and across all."""
    if high <= low:
        return 0.0, 0.0
    place = np.clip(((values - low) / (high - low) * BINS).astype(int), 0, BINS - 1)

    def entropy(cells: np.ndarray) -> float:
        share = np.bincount(cells, minlength=BINS) / len(cells)
        return float(-(share[share > 0] * np.log(share[share > 0])).sum())

    return float(np.mean([entropy(row) for row in place])), entropy(place.flatten())
