"""A CLIP reward freed of its own taste (directional decoupling: D2-Align, Chen et al. 2025, arXiv 2512.24146).

A reward that likes gloss hands it out whatever the prompt says, and a generator that learns from it loses diversity.
One vector b for all prompts moves the texts e towards what the reward likes, which is then asked for and pays no more:

    e+ = normalize(e + b),   e- = normalize(e - b),   e~ = e- + omega (e+ - e-),   R = cos(f, e~)
    b = argmax E cos(f, e~)   over samples of the base model        `visalign reward direct`
    b = 0: the plain cosine.   small b at right angles to e: e~ = e + (2 omega - 1) b

The control that learns nothing moves the texts towards the mean feature of the same samples, e~ = normalize(e + m f).

Differs from the paper in: b is learnt by Adam from 0 on features that are computed once, and may be held short. Nothing
bounds it there, and where samples hardly fit their prompts a long b drowns these: samples that are held out tell.
Recipe: configs/online/d2align.yaml.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.errors import UserError
from visalign.rewards.on_clip import OfClip, check_width, refuse_width
from visalign.storage.weights import read_shapes, read_tensors
from visalign.validation.ranges import Extrapolation

LEARNT, MEAN = "direction", "mean"
"""Names of the one tensor [d] in a correction's file: b, or m times the mean feature."""


def guided_texts(texts: Tensor, b: Tensor, omega: float) -> Tensor:
    """e~ of unit features of prompts [..., d], unit vectors as well."""
    towards, away = F.normalize(texts + b, dim=-1), F.normalize(texts - b, dim=-1)
    return F.normalize(away + omega * (towards - away), dim=-1)


def learn_direction(images: Tensor, texts: Tensor, omega: float, steps: int, rate: float, generator: torch.Generator,
                    longest: float | None = None, batch: int = 256) -> Tensor:
    """b, float32 [d], for unit features of images and of their prompts, [n, d] each (stage 1 of the paper).

    longest: the length within which b is held.
    """
    b = torch.zeros(images.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([b], lr=rate)
    for _ in range(steps):
        rows = torch.randint(len(images), (min(batch, len(images)),), generator=generator)
        loss = -(images[rows] * guided_texts(texts[rows], b, omega)).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if longest is not None:
            with torch.no_grad():
                b.mul_((longest / b.norm()).clamp(max=1))
    return b.detach()


@dataclass
class Directional(OfClip):
    """A CLIP reward whose own taste no longer pays: texts are moved along a learnt direction (D2-Align).

    of: the CLIP model. correction: the .safetensors file that `visalign reward direct` wrote for it. omega: how far the
    texts go; 1 is the way that the direction alone leads. A file of --mean takes none.
    """

    correction: str = ""
    omega: Extrapolation = 1.5

    dimensions = ("alignment",)
    score_range = (-1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        self._moved: tuple[str, Tensor] | None = None

    def check(self) -> None:
        super().check()
        if not self.correction:
            raise UserError(f"reward {self.name}: set correction to the file that `visalign reward direct` wrote for "
                            f"{self._clip.name}")
        shapes = read_shapes(self._file, self._where)
        if shapes.keys() not in ({LEARNT}, {MEAN}) or any(len(shape) != 1 for shape in shapes.values()):
            held = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"
            raise UserError(f"{self._where}: holds {held}; expected {LEARNT} [d] or {MEAN} [d], as `visalign reward "
                            "direct` writes it")
        check_width(self._clip, next(iter(shapes.values()))[0], self._where)

    @property
    def _file(self) -> Path:
        return Path(self.correction).expanduser()

    @property
    def _where(self) -> str:
        return f"reward {self.name}: correction {self.correction}"

    def wanted(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        texts, notes = self._clip.prompt_features(prompts)
        if self._moved is None:
            self._moved = next(iter(read_tensors(self._file, self._where).items()))
        name, vector = self._moved
        refuse_width(self._clip, len(vector), texts.shape[1], self._where)
        vector = vector.to(texts)
        return guided_texts(texts, vector, self.omega) if name == LEARNT else F.normalize(texts + vector, dim=-1), notes
