"""Rules for videos alone (flicker, motion, consistency), and image rewards applied to a video's frames."""

import re
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.media import motion_tracking as tracking
from visalign.media.pixels import luma_of, pixels_of
from visalign.media.samples import Sample
from visalign.rewards.base import Reward, RewardModel, Scores, in_plural
from visalign.validation.ranges import Few


class VideoRule(RewardModel):
    """A number measured on the frames of each video."""

    modalities = frozenset({"video"})

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        if refused or len(sample.video.frames) >= self.least_frames:
            return refused
        return f"{len(sample.video.frames)} frames, at least {self.least_frames} are needed"

    least_frames = 2

    @abstractmethod
    def measure(self, sample: Sample) -> float:
        ...

    def score_batch(self, samples: list[Sample]) -> Tensor:
        return torch.tensor([[self.measure(sample)] for sample in samples], dtype=torch.float32)


def mean_changes(sample: Sample, limit: int) -> np.ndarray:
    """Mean absolute luma difference of consecutive frames, [T - 1], in [0, 1]."""
    frames = [luma_of(pixels_of(frame)) for frame in sample.frames(limit)]
    return np.array([np.abs(b - a).mean() for a, b in zip(frames, frames[1:], strict=False)])


@dataclass
class Motion(VideoRule):
    """How much moves: mean absolute luma change between consecutive frames, in [0, 1]; 0 is a frozen video."""

    frames: Few = 64

    score_range = (0.0, 1.0)

    def measure(self, sample: Sample) -> float:
        return float(mean_changes(sample, self.frames).mean())


@dataclass
class Flicker(VideoRule):
    """How much brightness jumps back and forth, in [-1, 0]: minus the mean |second difference| of mean luma.

    Steady motion, fades included, has none; a frame that is suddenly dark has much.
    """

    frames: Few = 64

    least_frames = 3
    score_range = (-1.0, 0.0)

    def measure(self, sample: Sample) -> float:
        brightness = np.array([luma_of(pixels_of(frame)).mean() for frame in sample.frames(self.frames)])
        return float(-np.abs(np.diff(brightness, 2)).mean() / 2)


@dataclass
class SubjectConsistency(VideoRule):
    """Mean cosine of consecutive frames' open_clip embeddings, in [-1, 1]; 1: the subject does not change."""

    source: str = "tiny-clip"
    frames: Few = 16

    score_range = (-1.0, 1.0)

    def check(self) -> None:
        from visalign.rewards.openclip import check_clip_source

        check_clip_source(self.source, self.name)

    def held_bytes(self) -> int | None:
        from visalign.rewards.sizes import of_open_clip

        return of_open_clip(self.source)

    def load(self):
        from visalign.rewards.openclip import load_open_clip

        model, self.preprocess, _ = load_open_clip(self.source, self.name)
        return model

    def measure(self, sample: Sample) -> float:
        from visalign.rewards.openclip import to_batch

        network = self.network
        pixels = to_batch(self.preprocess, sample.frames(self.frames)).to(self.device)
        features = torch.nn.functional.normalize(network.encode_image(pixels).float(), dim=-1)
        return float((features[1:] * features[:-1]).sum(-1).mean())


_WORDS = {"left": r"left(wards?)?", "right": r"right(wards?)?", "up": r"up(wards?)?|ris(es|ing)",
          "down": r"down(wards?)?|fall(s|ing)", "grow": r"grow(s|ing)?|gets? (bigger|larger)",
          "shrink": r"shrink(s|ing)?|gets? smaller", "turn": r"(turn|rotat|spin)\w*", "bounce": r"(bounc|jump|hop)\w*",
          "blink": r"(blink|flash)\w*"}


def motions_in(prompt: str) -> list[str]:
    """The motions of `media.motion_tracking` named in a prompt."""
    return [name for name, words in _WORDS.items() if re.search(rf"\b({words})\b", prompt.lower())]


@dataclass
class PromptMotion(VideoRule):
    """Whether the one object on a plain background moves as its prompt says, in [-1, 1].

    Prompts are searched for words of direction, growth, turning, bouncing, blinking; of several the worst one counts.
    """

    least_frames = 3
    needs_prompt = True
    score_range = (-1.0, 1.0)

    def refusal(self, sample: Sample) -> str | None:
        return super().refusal(sample) or (None if motions_in(sample.prompt) else "the prompt names no motion")

    def measure(self, sample: Sample) -> float:
        found = tracking.components(sample.video)
        if found is None:  # nothing is drawn, so nothing moves
            return -1.0
        return min(tracking.motion_agreement(found, motion) for motion in motions_in(sample.prompt))


def for_modality(reward: Reward, modality: str) -> Reward:
    """The reward, or for videos an image reward's mean over frames. Raises UserError for a reward of the other kind."""
    if modality in reward.modalities:
        return reward
    if modality == "video" and "image" in reward.modalities and not reward.needs_group:
        return OnFrames(of=[reward], name=reward.name, device=reward.device)
    raise UserError(f"reward {reward.name}: scores {in_plural(reward.modalities)} only, and this model "
                    f"makes {modality}s")


@dataclass
class OnFrames(RewardModel):
    """An image reward on `frames` evenly spaced frames of a video: the mean, or the `min` (the worst frame).

    An image is scored as it is. When one of a video's frames cannot be scored, neither can the video.
    """

    of: Any = field(default_factory=list)
    frames: Few = 8
    pool: str = "mean"

    modalities = frozenset({"image", "video"})

    def __post_init__(self):
        super().__post_init__()
        if self.pool not in ("mean", "min"):
            raise ValueError(f"pool must be mean or min, got {self.pool!r}")
        if len(self.of) != 1:
            raise ValueError(f"frames wraps exactly one reward, got {len(self.of)}")
        self.inner: Reward = self.of[0]
        self.dimensions, self.higher_is_better = self.inner.dimensions, self.inner.higher_is_better
        self.needs_prompt, self.score_range = self.inner.needs_prompt, self.inner.score_range
        self.needs_sources = getattr(self.inner, "needs_sources", False)

    def check(self) -> None:
        self.inner.check()

    def to(self, device: str) -> None:
        super().to(device)
        self.inner.to(device)

    def held_bytes(self) -> int | None:
        return self.inner.held_bytes()

    def score_batch(self, samples: list[Sample]) -> Scores:
        values, remarks = [], {}
        for i, (rows, reason) in enumerate(scores_of_frames(self.inner, samples, self.frames)):
            worst = rows.amin(0) if self.higher_is_better else rows.amax(0)
            values.append(rows.mean(0) if self.pool == "mean" else torch.where(rows.isnan().any(0), torch.nan, worst))
            if reason:
                remarks[i] = reason
        return Scores(torch.stack(values), remarks)


def scores_of_frames(reward: Reward, samples: list[Sample], count: int) -> list[tuple[Tensor, str | None]]:
    """Of each video an image reward's values of at most `count` frames, float32 [F, D], and the first remark on one."""
    frames = [sample.frames(count) for sample in samples]
    answer = reward.score([sample.with_media(image) for sample, each in zip(samples, frames, strict=True)
                           for image in each])
    found, start = [], 0
    for each in frames:
        remarks = (answer.remarks[j] for j in range(start, start + len(each)) if j in answer.remarks)
        found.append((answer.values[start:start + len(each)], next(remarks, None)))
        start += len(each)
    return found
