"""What is measured of images and videos, and what of texts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from visalign.data.entry import Entry
from visalign.data.text_generations import TextEntry
from visalign.errors import UserError
from visalign.evaluators.diversity_axes import boxes_of
from visalign.evaluators.motion import motion_diversity
from visalign.evaluators.perceptual import Lpips, as_batch, ms_ssim_distance
from visalign.evaluators.style import STYLE, style_of
from visalign.evaluators.text_style import ANSWER_SHARES, TEXT_DIVERSITY, text_diversity, text_style_of
from visalign.media.samples import Sample
from visalign.media.text_measures import TEXT_STYLE


@dataclass(frozen=True)
class Medium:
    """How generations of one kind are measured, apart from features and rewards.

    style: names of what style_of gives of a sample, float64 [S]. boxes_of: of a sample, [n, 4]. together: metrics of a
    prompt's samples, of which of_prompt gives one number each, NaN where undefined; at_once_of_prompt: those that are
    measured during training too. features: what embeds them where nothing is said.
    """

    style: tuple[str, ...]
    style_of: Callable[[Sample], np.ndarray]
    boxes_of: Callable[[Sample], np.ndarray]
    together: tuple[str, ...]
    of_prompt: Callable[[list[Sample], Lpips | None], tuple[float, ...]]
    at_once_of_prompt: Callable[[list[Sample]], dict[str, float]]
    features: str


def _pixel_distances(samples: list[Sample], lpips: Lpips | None) -> tuple[float, ...]:
    """The first two see a video's middle frame."""
    if len(samples) < 2:
        return (float("nan"),) * 3
    images = [(frames := sample.frames(3))[len(frames) // 2] for sample in samples]
    batch = as_batch(images)
    return ms_ssim_distance(batch), lpips.distance(batch) if lpips else float("nan"), motion_diversity(samples)


def _text_numbers(samples: list[Sample], lpips: Lpips | None = None) -> tuple[float, ...]:
    return text_diversity([str(sample.answer) for sample in samples])


_OF_TEXTS = (*(f"diversity/{name}" for name in TEXT_DIVERSITY), *(f"answers/{name}" for name in ANSWER_SHARES))
VISUAL = Medium(STYLE, style_of, lambda sample: boxes_of(sample.frames(1)[0]),
                ("diversity/ms_ssim", "diversity/lpips", "diversity/motion"), _pixel_distances,
                lambda samples: {"diversity/motion": motion_diversity(samples)}, "tiny-clip")
TEXT = Medium(TEXT_STYLE, text_style_of, lambda sample: np.zeros((0, 4)), _OF_TEXTS, _text_numbers,
              lambda samples: dict(zip(_OF_TEXTS, _text_numbers(samples), strict=True)), "minilm")


def medium_of_entries(entries: list[list[Entry]]) -> Medium:
    """As `medium_of`, of generations that are not read yet."""
    return _one_of([isinstance(entry, TextEntry) for row in entries for entry in row])


def medium_of(samples: list[Sample]) -> Medium:
    """Raises UserError for texts among images or videos."""
    return _one_of([sample.answer is not None for sample in samples])


def _one_of(are_texts: list[bool]) -> Medium:
    if any(are_texts) and not all(are_texts):
        raise UserError(f"{sum(are_texts)} of {len(are_texts)} samples are texts and the others images or videos, "
                        "which cannot be measured together")
    return TEXT if any(are_texts) else VISUAL
