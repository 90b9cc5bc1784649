"""lambda-Harmonic: how well an image shows one subject and its prompt, of which neither makes up for the other.

Miao et al. 2024 (arXiv 2407.12164), eq. 6: the weighted harmonic mean of similarity i to the subject and text fit q,

    r = 1 / (lambda / (i + 1e-8) + (1 - lambda) / (q + 1e-8)),   i and q in [0, 1]

Differs from the paper in: any two rewards of a known range will do, each mapped from its range to [0, 1], so that
cosines become (1 + cosine) / 2; the published run takes both from ALIGN.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from visalign.media.samples import Sample
from visalign.rewards.base import Reward, Scores
from visalign.rewards.combine import Combination
from visalign.validation.ranges import Portion

LEAST = 1e-8


def in_unit(reward: Reward, values: Tensor) -> Tensor:
    """A reward's values, of which larger is better, mapped from its range to [0, 1].

    Raises ValueError for a reward without two ends, or whose value is not one number.
    """
    if len(reward.dimensions) != 1:
        raise ValueError(f"{reward.name} has the dimensions {', '.join(reward.dimensions)}, and one is expected; pick "
                         "one with {kind: direction, ...}")
    low, high = sorted((1 if reward.higher_is_better else -1) * end for end in reward.score_range)
    if not math.isfinite(high - low):
        raise ValueError(f"{reward.name} has no lowest or no highest value, so it cannot be mapped to 0 to 1; take one "
                         "that has both, such as clip, whose cosines end at -1 and 1")
    return (values - low) / (high - low)


def without_word(prompt: str, word: str) -> str:
    """The prompt without a word that stands for a subject: `a photo of sks dog` -> `a photo of dog`."""
    return " ".join(each for each in prompt.split() if each.strip(".,;:!?\"'()") != word) if word else prompt


@dataclass
class Harmonic(Combination):
    """Weighted harmonic mean of two rewards, text fit first and similarity to a subject second (RPO): low where either
    is.

    similarity_weight: lambda, 0 is the text fit alone and 1 the similarity. token: a word of prompts that stands for
    the subject and that the rewards do not see.
    """

    similarity_weight: Portion = 0.5
    token: str = ""

    score_range = (0.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        if len(self.inner) != 2:
            raise ValueError(f"of must be two rewards, text fit and similarity, found {', '.join(self.columns)}")
        for reward in self.inner:
            in_unit(reward, torch.zeros(1))

    def score_batch(self, samples: list[Sample]) -> Scores:
        return super().score_batch([replace(each, prompt=without_word(each.prompt, self.token)) for each in samples])

    def combine(self, values: Tensor, spreads: Tensor, samples: list[Sample]) -> Tensor:
        fit, similarity = (in_unit(reward, column) for reward, column in zip(self.inner, values.unbind(1), strict=True))
        return 1 / (self.similarity_weight / (similarity + LEAST) + (1 - self.similarity_weight) / (fit + LEAST))
