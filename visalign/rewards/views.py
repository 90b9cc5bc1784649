"""A video as views of one object, by any reward of images (AR3D-R1's ensemble, Tang et al. 2025, arXiv 2512.10949).

    mean         (1/V) sum_v r_v                                      looks
    min          min_v r_v                                            shape: a good object has no bad side
    consistency  2 / (V (V - 1)) sum_{v < w} cos(f_v, f_w)            is it the same object everywhere?

with r_v the reward of view v and f_v its unit features.

Differs from the paper in: views are frames of a video in which a camera goes round an object, or which turns, not
renderings of a mesh; the reward and the model of the features are whichever is named, not its ensemble.
Use: configs/video/hi_grpo.yaml.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.rewards.base import Reward, RewardModel, Scores
from visalign.rewards.clip import FRAMES, ClipScore
from visalign.rewards.sizes import sum_of
from visalign.rewards.video_rules import scores_of_frames
from visalign.validation.ranges import AtLeastTwo


def mutual_cosine(features: Tensor) -> Tensor:
    """Mean cosine of all pairs of V unit vectors [V, d], a number."""
    count = len(features)
    return (features.sum(0).square().sum() - features.square().sum()) / (count * (count - 1))


@dataclass
class Views(RewardModel):
    """An image reward's mean and its worst over the views of one object in a video, and how alike the views are.

    of: the image reward; where a lower value is better, both are of its values times -1. views: how many evenly spaced
    frames are taken. features: the open_clip model that says how alike they are ("": `of` itself, if it has features).
    """

    of: Any = field(default_factory=list)
    views: AtLeastTwo = FRAMES
    features: str = ""

    modalities = frozenset({"video"})
    dimensions = ("mean", "min", "consistency")

    def __post_init__(self):
        super().__post_init__()
        if len(self.of) != 1:
            raise ValueError(f"of must name one reward of images, found {len(self.of)}")
        self.inner: Reward = self.of[0]
        if "image" not in self.inner.modalities or self.inner.needs_group:
            raise ValueError(f"of: {self.inner.name} does not score an image by itself; name a reward that does, such "
                             "as tiny-clip, hpsv2 or aesthetic")
        if len(self.inner.dimensions) != 1:
            raise ValueError(f"of: {self.inner.name} has the dimensions {', '.join(self.inner.dimensions)}, and one is "
                             "expected; pick one with {kind: direction, ...}")
        if not self.features and not hasattr(self.inner, "features"):
            raise ValueError(f"of: {self.inner.name} has no features to say how alike views are; set features to an "
                             "open_clip model such as tiny-clip or ViT-L-14/openai")
        self.needs_prompt = self.inner.needs_prompt
        self.needs_sources = getattr(self.inner, "needs_sources", False)
        self._sign = 1 if self.inner.higher_is_better else -1
        low, high = sorted(self._sign * end for end in self.inner.score_range)
        self.score_range = (min(low, -1.0), max(high, 1.0))
        self._embedder: Any = ClipScore(self.features, name=self.name, device=self.device,
                                        batch_size=self.batch_size) if self.features else self.inner

    def check(self) -> None:
        for reward in self._parts():
            reward.check()

    def to(self, device: str) -> None:
        super().to(device)
        for reward in self._parts():
            reward.to(device)

    def held_bytes(self) -> int | None:
        return sum_of([reward.held_bytes() for reward in self._parts()])

    def _parts(self) -> list[Any]:
        return [self.inner] if self._embedder is self.inner else [self.inner, self._embedder]

    def refusal(self, sample: Sample) -> str | None:
        refused = super().refusal(sample)
        if refused or len(sample.video.frames) > 1:
            return refused
        return "1 frame, at least 2 are needed to be views of one object"

    def score_batch(self, samples: list[Sample]) -> Scores:
        views = [sample.frames(self.views) for sample in samples]
        features = self._embedder.features([image for each in views for image in each]).split(list(map(len, views)))
        values, remarks = [], {}
        for i, (rows, reason) in enumerate(scores_of_frames(self.inner, samples, self.views)):
            own = self._sign * rows[:, 0]
            worst = torch.where(own.isnan().any(), torch.nan, own.amin())
            values.append(torch.stack([own.mean(), worst, mutual_cosine(features[i])]))
            if reason:
                remarks[i] = reason
        return Scores(torch.stack(values), remarks)
