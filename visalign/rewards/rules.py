"""Rewards that are measurements: without a network, exact, fast. Useful for tests and for what a model misses.

Pixel values are in [0, 1]; luma is Rec. 601 (0.299 R + 0.587 G + 0.114 B).
"""

import re
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visalign.media import pixels as measures
from visalign.media.pixels import luma_of, pixels_of
from visalign.media.samples import Sample
from visalign.rewards.base import RewardModel
from visalign.validation.ranges import JpegQuality, Portion, Within


class ImageRule(RewardModel):
    """A number measured on each image."""

    @abstractmethod
    def measure(self, sample: Sample) -> float:
        ...

    def score_batch(self, samples: list[Sample]) -> Tensor:
        return torch.tensor([[self.measure(sample)] for sample in samples], dtype=torch.float32)


@dataclass
class JpegSize(ImageRule):
    """Size as a JPEG: minus the kilobytes (1000 bytes) at `quality`, or plus them when `incompressible` (DDPO)."""

    quality: JpegQuality = 95
    incompressible: bool = False

    def measure(self, sample: Sample) -> float:
        return measures.jpeg_kilobytes(sample.image, self.quality) * (1 if self.incompressible else -1)


@dataclass
class Sharpness(ImageRule):
    """Standard deviation of the luma's 4-neighbour Laplacian, in [0, 4]."""

    score_range = (0.0, 4.0)

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        return refused or (None if min(sample.image.size) > 2 else "needs an image of at least 3 x 3 pixels")

    def measure(self, sample: Sample) -> float:
        return measures.sharpness(luma_of(pixels_of(sample.image)))


@dataclass
class Exposure(ImageRule):
    """1 for a mean luma of `target`, falling to 0 at black and white, less the share of clipped pixels."""

    target: Within = 0.5

    score_range = (-1.0, 1.0)

    def measure(self, sample: Sample) -> float:
        y = luma_of(pixels_of(sample.image))
        reach = self.target if y.mean() < self.target else 1 - self.target
        return float(1 - abs(y.mean() - self.target) / reach - ((y <= 0) | (y >= 1 - 1e-9)).mean())


class SmoothRule(ImageRule):
    """A measurement with a gradient: `of_pixels` [B, 3, H, W] in [0, 1] -> [B]."""

    @abstractmethod
    def of_pixels(self, pixels: Tensor) -> Tensor:
        ...

    def measure(self, sample: Sample) -> float:
        return float(self.of_pixels(torch.from_numpy(pixels_of(sample.image).transpose(2, 0, 1)[None].copy())))

    def score_pixels(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """As `score`, with gradients, [B, 1]."""
        return self.of_pixels(pixels)[:, None]


@dataclass
class Contrast(SmoothRule):
    """Root-mean-square contrast: the standard deviation of luma, in [0, 0.5]."""

    score_range = (0.0, 0.5)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        return measures.contrast(pixels)


@dataclass
class Saturation(SmoothRule):
    """Mean HSV saturation, in [0, 1]."""

    score_range = (0.0, 1.0)

    def of_pixels(self, pixels: Tensor) -> Tensor:
        return measures.saturation(pixels)


@dataclass
class Colourfulness(SmoothRule):
    """Hasler and Süsstrunk 2003: std + 0.3 mean of the opponent colours, on the 0-255 scale (grey: 0, vivid: > 80)."""

    score_range = (0.0, float("inf"))

    def of_pixels(self, pixels: Tensor) -> Tensor:
        return measures.colourfulness(pixels)


HUES = {"red": 0.0, "orange": 30 / 360, "yellow": 55 / 360, "green": 120 / 360, "blue": 220 / 360,
        "purple": 280 / 360, "pink": 335 / 360}
GREYS = {"black": 0.0, "grey": 0.5, "gray": 0.5, "white": 1.0}


@dataclass
class ColourOfPrompt(ImageRule):
    """Share of the drawn (not near-white) pixels whose colour is the one the prompt names; the first colour counts.

    Hues within `tolerance` of a turn count when saturation and value are at least 0.25; black and grey are by value.
    """

    tolerance: Portion = 0.06

    needs_prompt = True
    score_range = (0.0, 1.0)

    def refusal(self, sample: Sample) -> str | None:
        return super().refusal(sample) or (None if self._named(sample.prompt) else "the prompt names no colour")

    @staticmethod
    def _named(prompt: str) -> str | None:
        found = re.search(rf"\b({'|'.join([*HUES, *GREYS])})\b", prompt.lower())
        return found[1] if found else None

    def measure(self, sample: Sample) -> float:
        hue, saturation, value = (np.asarray(sample.image.convert("HSV"), np.float64) / 255).transpose(2, 0, 1)
        name = self._named(sample.prompt)
        white = (saturation < 0.1) & (value > 0.92)
        drawn = np.ones_like(white) if name == "white" else ~white
        if not drawn.any():
            return 0.0
        if name in HUES:
            distance = np.abs((hue - HUES[name] + 0.5) % 1 - 0.5)
            match = (distance <= self.tolerance) & (saturation >= 0.25) & (value >= 0.25)
        else:
            match = (saturation < 0.2) & (np.abs(value - GREYS[name]) < 0.25)
        return float((match & drawn).sum() / drawn.sum())
