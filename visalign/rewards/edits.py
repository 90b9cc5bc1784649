"""Rewards of an edit, which see its source image beside the result: what was kept, how much changed, and which way.

Results and sources are compared at the result's size; the first source image counts where there are several.
"""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visalign.media.pixels import pixels_of
from visalign.media.samples import Sample, fit_image
from visalign.media.source_images import read_source
from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.clip import ClipScore
from visalign.rewards.on_clip import OnClip

WINDOW = 11
"""Side of SSIM's window; smaller images have none."""


def square_errors(result: Image.Image, source: Image.Image) -> np.ndarray:
    """Mean square difference over red, green and blue of pixels in [0, 1], [H, W] at the result's size."""
    return ((pixels_of(result) - pixels_of(fit_image(source, *result.size))) ** 2).mean(-1)


def likeness(result: Image.Image, source: Image.Image) -> np.ndarray:
    """SSIM (Wang et al. 2004) at every pixel, [H, W] at the result's size."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    both = [torch.from_numpy(pixels_of(image).transpose(2, 0, 1)[None]).float()
            for image in (result, fit_image(source, *result.size))]
    _, every = structural_similarity_index_measure(*both, data_range=1.0, return_full_image=True)
    return every[0].mean(0).numpy()


class EditMeasure(RewardModel):
    """Base of measurements of a result [H, W] against its source."""

    needs_sources = True
    score_range = (0.0, 1.0)

    @abstractmethod
    def measure_edit(self, sample: Sample) -> tuple[float, str | None]:
        """The value, and a remark on how it was measured, or None."""

    def score_batch(self, samples: list[Sample]) -> Scores:
        measured = [self.measure_edit(sample) for sample in samples]
        return Scores(torch.tensor([[value] for value, _ in measured], dtype=torch.float32),
                      {i: remark for i, (_, remark) in enumerate(measured) if remark})


@dataclass
class BackgroundKept(EditMeasure):
    """How well an edit keeps what lies outside its mask: 1 less the root-mean-square difference there, or mean SSIM.

    The mask is an image that is white where the edit belongs: the column `mask` of the prompt's row. A row without one
    is compared over the whole image, which says so in its remark: there, doing nothing at all scores 1, so a reward for
    the edit itself belongs beside it. distance: rms, or ssim, which forgives small shifts of brightness.
    """

    distance: Literal["rms", "ssim"] = "rms"

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        if refused or self.distance == "rms" or min(sample.image.size) >= WINDOW:
            return refused
        return f"ssim needs an image of at least {WINDOW} x {WINDOW} pixels"

    def measure_edit(self, sample: Sample) -> tuple[float, str | None]:
        outside, remark = self._outside(sample)
        if not outside.any():
            named = "" if isinstance(sample.known["mask"], Image.Image) else f" {sample.known['mask']}"
            return float("nan"), f"the mask{named} leaves nothing outside"
        if self.distance == "ssim":
            return float(likeness(sample.image, sample.sources[0])[outside].mean().clip(0, 1)), remark
        return float(1 - square_errors(sample.image, sample.sources[0])[outside].mean() ** 0.5), remark

    def _outside(self, sample: Sample) -> tuple[np.ndarray, str | None]:
        """Which pixels [H, W] the edit should leave alone."""
        width, height = sample.image.size
        if "mask" not in sample.known:
            return np.ones((height, width), bool), "no mask, so the whole image is compared with its source"
        mask = sample.known["mask"]
        mask = mask if isinstance(mask, Image.Image) else read_source(Path(mask), f"reward {self.name}")
        return np.asarray(fit_image(mask, width, height).convert("L")) < 128, None


@dataclass
class SourceChange(EditMeasure):
    """How far a result is from its source: the root-mean-square difference of their pixels, 0 where nothing was done.

    A measure to watch (`eval.also`), since models whose edits are rewarded for what they keep learn to do nothing.
    """

    def measure_edit(self, sample: Sample) -> tuple[float, str | None]:
        return float(square_errors(sample.image, sample.sources[0]).mean() ** 0.5), None


@dataclass
class ClipDirection(OnClip):
    """CLIP direction similarity (Gal et al. 2022, StyleGAN-NADA): does the image change as its caption does?

    The cosine of CLIP(result) - CLIP(source) with CLIP(target caption) - CLIP(source caption), 0 where either is no
    change. Captions are the columns `target_caption` and `source_caption` of the prompt's row; where they are missing
    the instruction stands for the first and `neutral` for the second, since an instruction names what should be there
    afterwards and not what was there before. source: an open_clip model, as for clip.
    """

    source: str = "ViT-L-14/openai"
    neutral: str = "a photo"

    dimensions = ("direction",)
    needs_prompt = True
    needs_sources = True
    score_range = (-1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        if not self.neutral.strip():
            raise ValueError("neutral is empty; name what an image shows before any edit, such as 'a photo'")
        self._clip = ClipScore(self.source, name=self.name, device=self.device, batch_size=self.batch_size)

    def score_batch(self, samples: list[Sample]) -> Scores:
        captions = [(sample.known.get("target_caption") or sample.prompt,
                     sample.known.get("source_caption") or self.neutral) for sample in samples]
        texts, notes = self._clip.prompt_features([text for pair in captions for text in pair])
        sources = list({id(sample.sources[0]): sample.sources[0] for sample in samples}.values())
        places = {id(source): i for i, source in enumerate(sources)}
        images = self._clip.features([*sources, *(sample.image for sample in samples)])
        before = images[[places[id(sample.sources[0])] for sample in samples]]
        wanted: Tensor = texts[::2] - texts[1::2]
        values = F.cosine_similarity(images[len(sources):] - before, wanted, dim=-1)
        cut = {i: note for i in range(len(samples)) if (note := notes[2 * i] or notes[2 * i + 1])}
        return Scores(values[:, None], cut)
