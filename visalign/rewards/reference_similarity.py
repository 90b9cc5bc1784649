"""How alike a sample is to photographs of one subject, by an open_clip model (the identity score of RPO)."""

from dataclasses import dataclass

from torch import Tensor

from visalign.media.photographs import read_photographs
from visalign.media.samples import Sample
from visalign.rewards.clip import ClipScore
from visalign.rewards.on_clip import OnClip


@dataclass
class ReferenceSimilarity(OnClip):
    """(1 + mean over the photographs of their cosine with the image) / 2, in [0, 1] (Miao et al. 2024, RPO).

    images: a folder with photographs of the subject, a list of files, or `emoji:subject`. features: an open_clip model,
    as for clip.
    """

    images: str | list[str] | tuple[str, ...] = ""
    features: str = "ViT-L-14/openai"

    named_by = "images"
    dimensions = ("similarity",)
    score_range = (0.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        if not self.images:
            raise ValueError("images is missing; name a folder with photographs of the subject, or a list of files")
        self._clip = ClipScore(self.features, name=self.name, device=self.device, batch_size=self.batch_size)
        self._photographs: Tensor | None = None

    def check(self) -> None:
        super().check()
        read_photographs(self.images, f"reward {self.name}: images")

    @property
    def photographs(self) -> Tensor:
        """Their unit features, [m, d]."""
        if self._photographs is None:
            images = read_photographs(self.images, f"reward {self.name}: images")
            self._photographs = self._clip.features(list(images.values()))
        return self._photographs

    def score_batch(self, samples: list[Sample]) -> Tensor:
        found = self._clip.features([sample.image for sample in samples])
        return (1 + (found @ self.photographs.T).mean(1, keepdim=True)) / 2
