"""Rewards that work with the features of one CLIP model: what they ask of it, and how they hand it on."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.base import Reward, RewardModel, Scores
from visalign.rewards.clip import ClipScore
from visalign.storage.open_clip_models import embedding_width


class ClipFeatures(Protocol):
    """A reward that embeds images and prompts together; features are unit vectors, float32 [n, d].

    pixel_features: of pixels [B, 3, H, W] in [0, 1], with gradients. prompt_features: with a note where a prompt was
    cut.
    """

    name: str
    network: Any

    def check(self) -> None: ...

    def to(self, device: str) -> None: ...

    def held_bytes(self) -> int | None: ...

    def features(self, images: list[Image.Image]) -> Tensor: ...

    def pixel_features(self, pixels: Tensor) -> Tensor: ...

    def prompt_features(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]: ...


class OnClip(RewardModel):
    """Base of rewards whose only network is `_clip`."""

    _clip: ClipFeatures

    def check(self) -> None:
        self._clip.check()

    def held_bytes(self) -> int | None:
        return self._clip.held_bytes()

    def load(self) -> Any:
        return self._clip.network

    def to(self, device: str) -> None:
        super().to(device)
        self._clip.to(device)


def has_features(reward: Reward) -> bool:
    """Whether a reward embeds images and prompts together."""
    return all(hasattr(reward, name) for name in ("features", "pixel_features", "prompt_features"))


def check_width(clip: Reward, width: int, where: str) -> None:
    """Raise UserError starting with `where` unless features have so many numbers, where that is known unloaded."""
    if isinstance(clip, ClipScore) and clip.weights_folder():
        refuse_width(clip, width, embedding_width(clip.source, f"reward {clip.name}"), where)


def refuse_width(clip: Reward, width: int, own: int, where: str) -> None:
    if width != own:
        raise UserError(f"{where}: has {width} numbers and the features of {clip.name} have {own}; write one for this "
                        "model")


@dataclass
class OneClip(OnClip):
    """Base of rewards `of` one reward that has features of images and prompts."""

    of: Any = field(default_factory=list)

    needs_prompt = True

    def __post_init__(self):
        super().__post_init__()
        inner = list(self.of)
        if len(inner) != 1:
            raise ValueError(f"of must name one reward, found {len(inner)}; give a CLIP model such as tiny-clip or "
                             "clip:ARCHITECTURE/TAG")
        if not has_features(inner[0]):
            raise ValueError(f"of: {inner[0].name} has no features of images and prompts; take a CLIP model such as "
                             "tiny-clip, clip:ARCHITECTURE/TAG or hpsv2")
        self._clip = inner[0]


@dataclass
class OfClip(OneClip):
    """Base of rewards `of` one CLIP model: an image's cosine with what its prompt should be."""

    @abstractmethod
    def wanted(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        """What the features of images are multiplied by, [n, d], and a note where a prompt was cut."""

    def score_pixels(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """As `score`, of square pixels [B, 3, H, W] in [0, 1] and with gradients, [B, 1]."""
        features = self._clip.pixel_features(pixels)
        return (features * self.wanted(prompts)[0].to(features)).sum(-1, keepdim=True)

    def score_batch(self, samples: list[Sample]) -> Scores:
        wanted, notes = self.wanted([sample.prompt for sample in samples])
        found = (self.embedded(samples) * wanted).sum(-1, keepdim=True)
        return Scores(found, {i: note for i, note in enumerate(notes) if note})

    def embedded(self, samples: list[Sample]) -> Tensor:
        """Unit features [n, d] of the samples."""
        return self._clip.features([sample.image for sample in samples])
