"""Bias removal: a reward's preference for brightness, sharpness, long answers or long prompts is fitted on base samples
and subtracted.

Features are standardised; the fit is ridge regression on them and their squares, so that a preferred middle (neither
too dark nor too bright) can be expressed. Correlations are measured on samples that the fit did not see.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.media.pixels import luma_of, pixels_of
from visalign.media.samples import Sample
from visalign.media.text_measures import TEXT_STYLE, text_measures
from visalign.rewards.combine import Combination
from visalign.rewards.rules import Contrast, JpegSize, Saturation, Sharpness

FEATURES = ("brightness", "saturation", "contrast", "sharpness", "jpeg_kilobytes", "prompt_length")
TEXT_FEATURES = (*TEXT_STYLE, "prompt_length")
LEAST_SAMPLES = 50


def nuisance(sample: Sample) -> list[float]:
    """FEATURES of a sample, of a video their mean over up to 4 frames; of an answer TEXT_FEATURES."""
    if sample.answer is not None:
        return [*text_measures(sample.answer), float(len(sample.prompt))]
    rules = (Saturation(), Contrast(), Sharpness(), JpegSize(incompressible=True))
    per_frame = []
    for frame in sample.frames(4):
        still = Sample(sample.prompt, frame)
        per_frame.append([luma_of(pixels_of(frame)).mean(), *(rule.measure(still) for rule in rules)])
    return [*np.mean(per_frame, 0), float(len(sample.prompt))]


@dataclass(frozen=True)
class BiasModel:
    """Standardisation and coefficients; correlations of reward and feature before and after, on held-out samples."""

    mean: list[float]
    std: list[float]
    coefficients: list[float]
    before: dict[str, float]
    after: dict[str, float]
    samples: int

    def bias(self, features: np.ndarray) -> np.ndarray:
        """The reward that the features [n, F] alone predict, [n]; its mean over the fitted samples is 0."""
        return design(features, np.array(self.mean), np.array(self.std)) @ np.array(self.coefficients)


def design(features: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Standardised features (clipped at +-3) and their squares less 1, [n, 2F]."""
    z = np.clip((features - mean) / std, -3, 3)
    return np.concatenate([z, z**2 - 1], 1)


def fit_bias(rewards: np.ndarray, features: np.ndarray, ridge: float = 1.0, seed: int = 0) -> BiasModel:
    """Fit rewards [n] on FEATURES or TEXT_FEATURES [n, F]; correlations come from two-fold cross-fitting.

    Raises UserError for fewer than LEAST_SAMPLES finite samples or a constant reward.
    """
    rewards, features = np.asarray(rewards, np.float64), np.asarray(features, np.float64)
    kept = np.isfinite(rewards) & np.isfinite(features).all(1)
    rewards, features = rewards[kept], features[kept]
    if len(rewards) < LEAST_SAMPLES:
        raise UserError(f"bias: {len(rewards)} samples with a reward; at least {LEAST_SAMPLES} are needed for a fit")
    if np.ptp(rewards) == 0:
        raise UserError("bias: the reward is the same for all samples, so there is no bias to fit")
    fold = np.random.default_rng(seed).permutation(len(rewards)) % 2
    residual = np.empty_like(rewards)
    for k in (0, 1):
        mean, std, coefficients, base = _solve(rewards[fold != k], features[fold != k], ridge)
        residual[fold == k] = rewards[fold == k] - base - design(features[fold == k], mean, std) @ coefficients
    mean, std, coefficients, _ = _solve(rewards, features, ridge)
    names = TEXT_FEATURES if features.shape[1] == len(TEXT_FEATURES) else FEATURES
    correlations = [{name: correlation(values, features[:, j]) for j, name in enumerate(names)}
                    for values in (rewards, residual)]
    return BiasModel(mean.tolist(), std.tolist(), coefficients.tolist(), *correlations, len(rewards))


def _solve(rewards: np.ndarray, features: np.ndarray, ridge: float):
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 0, std, 1.0)
    x = design(features, mean, std)
    base, centre = rewards.mean(), x.mean(0)
    gram = (x - centre).T @ (x - centre) + ridge * np.eye(x.shape[1])
    coefficients = np.linalg.solve(gram, (x - centre).T @ (rewards - base))
    return mean, std, coefficients, base - centre @ coefficients


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r, 0 where one side is constant."""
    return 0.0 if np.ptp(a) == 0 or np.ptp(b) == 0 else float(np.corrcoef(a, b)[0, 1])


@dataclass
class Debiased(Combination):
    """A reward minus its bias for brightness, saturation, contrast, sharpness, file size and prompt length; of texts
    for length, list markers, capitals and the like.

    model: the JSON file that `visalign reward debias` wrote for this reward on samples of the base model.
    """

    model: str = ""

    def __post_init__(self):
        super().__post_init__()
        self._bias: BiasModel | None = None
        if len(self.columns) != 1:
            raise ValueError(f"of must have one dimension in all, found {', '.join(self.columns)}; pick one with a "
                             "direction")

    def check(self) -> None:
        super().check()
        if not self.model:
            raise UserError(f"reward {self.name}: set model to the file that `visalign reward debias` wrote for the "
                            "reward")
        fitted, wanted = list(self.bias_model.before), TEXT_FEATURES if self.modalities == {"text"} else FEATURES
        if fitted != list(wanted):
            raise UserError(f"reward {self.name}: {self.model} was fitted on {', '.join(fitted)}, this reward needs a "
                            f"fit on {', '.join(wanted)}; write one with `visalign reward debias`")

    @property
    def bias_model(self) -> BiasModel:
        if self._bias is None:
            path = Path(self.model).expanduser()
            try:
                self._bias = BiasModel(**json.loads(path.read_text("utf-8"))["bias"])
            except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
                raise UserError(f"reward {self.name}: {self.model} is not a bias model ({error}); write one "
                                "with `visalign reward debias`") from None
        return self._bias

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        features = np.array([nuisance(sample) for sample in samples])
        return values[:, 0] - torch.from_numpy(self.bias_model.bias(features)).float()
