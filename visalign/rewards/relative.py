"""A reward by what two words add to a prompt (semantic relative preference: SRPO, Shen et al. 2025, arXiv 2509.06942).

    r = f . ((1 + k) e+ - e-),   f the image's unit features, e+ of "GOOD. prompt", e- of "BAD. prompt"

and with the words swapped, where a branch of `direct_align` asks for it, r = f . ((1 + k) e- - e+). What a CLIP model
likes of an image whatever the text says is in both, and cancels. Use: configs/online/direct_align.yaml.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.rewards.on_clip import OfClip
from visalign.validation.ranges import Weight


@dataclass(frozen=True)
class Branches:
    """Of B samples recovered from one step each: the noise fraction it began at, float32 [B], and whether it led to
    more noise, bool [B], so that words are swapped."""

    noise: Tensor
    swapped: Tensor


@dataclass
class Relative(OfClip):
    """How much more an image fits its prompt behind one word than behind another, by a CLIP model (SRPO).

    of: the CLIP model. good, bad: the words, as in "Realistic photo. PROMPT". k: how much more the good word weighs, or
    [at clean data, at pure noise] where `direct_align` notes how noisy a step began; k_swapped: the same in its inverse
    branch (null: as k). The paper's code has k [0.1, 0.25] and k_swapped [0.3, 0.01]. Scores have k at clean data.
    """

    good: str = ""
    bad: str = ""
    k: Weight | tuple[Weight, Weight] = 0.1
    k_swapped: Weight | tuple[Weight, Weight] | None = None

    dimensions = ("relative",)

    def __post_init__(self):
        super().__post_init__()
        for name, word in (("good", self.good), ("bad", self.bad)):
            if not word.strip():
                raise ValueError(f"{name} is missing; name a word such as {name}: "
                                 f"{'Realistic photo' if name == 'good' else 'CG render'}")
        if self.good.strip() == self.bad.strip():
            raise ValueError(f"good and bad are both {self.good.strip()!r}; the reward is of what tells them apart")
        most = 2 + max(_ends(self.k) + _ends(self.k if self.k_swapped is None else self.k_swapped))
        self.score_range = (-most, most)

    def wanted(self, prompts: list[str]) -> tuple[Tensor, list[str | None]]:
        count = len(prompts)
        return self._in_branches(prompts, Branches(torch.zeros(count), torch.zeros(count, dtype=torch.bool)))

    def score_branches(self, pixels: Tensor, prompts: list[str], branches: Branches) -> Tensor:
        """As `score_pixels`, in the branch of each sample."""
        features = self._clip.pixel_features(pixels)
        return (features * self._in_branches(prompts, branches)[0].to(features)).sum(-1, keepdim=True)

    def _in_branches(self, prompts: list[str], branches: Branches) -> tuple[Tensor, list[str | None]]:
        texts, notes = self._clip.prompt_features(
            [f"{word.strip()}. {prompt}" for prompt in prompts for word in (self.good, self.bad)])
        noise, swapped = branches.noise.cpu().float()[:, None], branches.swapped.cpu()[:, None]
        k = torch.where(swapped, _between(self.k if self.k_swapped is None else self.k_swapped, noise),
                        _between(self.k, noise))
        good, bad = texts[::2], texts[1::2]
        return (1 + k) * torch.where(swapped, bad, good) - torch.where(swapped, good, bad), [
            one or other for one, other in zip(notes[::2], notes[1::2], strict=True)]


def _ends(k: float | tuple[float, float]) -> tuple[float, float]:
    return k if isinstance(k, tuple) else (k, k)


def _between(k: float | tuple[float, float], noise: Tensor) -> Tensor:
    """k at noise fractions, of their shape, on the line from clean data to pure noise."""
    clean, noisy = _ends(k)
    return clean + noise * (noisy - clean)
