"""How well a video fits its prompt, by optimal transport between texts and real videos (PISCES, Le et al. 2026, arXiv
2602.01624).

Features of texts and of videos lie in different regions, and their plain cosine sees the gap beside the fit. A map T
carries the cloud of captions to the cloud of real videos, and R = cos(T(y), x) compares within the second.

Differs from the paper in: features are a CLIP model's, the mean over frames for a video, not InternVideo2's; T is the
barycentric projection of a Sinkhorn plan over some thousand real videos, carried on to other texts by ridge regression,
not a pair of networks. `visalign reward transport` makes it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards.clip import FRAMES
from visalign.rewards.on_clip import ClipFeatures, OfClip, check_width, refuse_width
from visalign.storage.weights import read_shapes, read_tensors

MAPPED = {"matrix": 2, "shift": 1}
"""Tensors of a map's file and their dimensions: T(y) = y matrix + shift."""


def video_features(clip: ClipFeatures, samples: list[Sample]) -> Tensor:
    """Unit features [n, d]: of images, and of videos the mean over frames."""
    frames = [sample.frames(FRAMES) for sample in samples]
    found = clip.features([frame for each in frames for frame in each]).split([len(each) for each in frames])
    return F.normalize(torch.stack([own.mean(0) for own in found]), dim=-1)


@dataclass
class TransportQuality(OfClip):
    """Cosine of a video with its prompt carried to where real videos are, by a CLIP model (PISCES's quality).

    of: the CLIP model. map: the .safetensors file that `visalign reward transport` wrote for it.
    """

    map: str = ""

    modalities = frozenset({"image", "video"})
    dimensions = ("quality",)
    score_range = (-1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        self._map: dict[str, Tensor] | None = None

    def check(self) -> None:
        super().check()
        if not self.map:
            raise UserError(f"reward {self.name}: set map to the file that `visalign reward transport` wrote for "
                            f"{self._clip.name}")
        shapes = read_shapes(Path(self.map).expanduser(), self._where)
        if {name: len(shape) for name, shape in shapes.items()} != MAPPED or len({n for s in shapes.values()
                                                                                  for n in s}) != 1:
            held = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"
            raise UserError(f"{self._where}: holds {held}; expected matrix [d, d] and shift [d], as `visalign reward "
                            "transport` writes them")
        check_width(self._clip, shapes["shift"][0], self._where)

    @property
    def _where(self) -> str:
        return f"reward {self.name}: map {self.map}"

    def wanted(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        texts, notes = self._clip.prompt_features(prompts)
        if self._map is None:
            self._map = read_tensors(Path(self.map).expanduser(), self._where)
            refuse_width(self._clip, len(self._map["shift"]), texts.shape[1], self._where)
        return F.normalize(texts @ self._map["matrix"].to(texts) + self._map["shift"].to(texts), dim=-1), notes

    def embedded(self, samples: list[Sample]) -> Tensor:
        return video_features(self._clip, samples)
