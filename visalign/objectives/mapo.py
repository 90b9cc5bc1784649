"""MaPO: prefer the chosen sample without a reference, by the margin between two likelihoods and by imitation.

Hong et al. 2024 (arXiv 2406.06424), with the numbers of its published code.

    f(E) = s E / (exp(s E) - 1),   z = scale (f(E_w) - f(E_l)),   loss = E_w - beta log sigmoid(z)

E is the mean squared prediction error, at the same time and noise for both samples of a pair. f falls from 1 at E = 0
and stands for how likely a sample is. A step takes two passes of the network, where DPO takes four.

Differs from the paper in: soft labels, which take the mean of the loss over both labels; and flow models may be trained
with it, since only errors enter. Recipe: configs/sdxl_mapo.yaml.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Weight


@register("offline", "mapo")
@dataclass(frozen=True)
class MaPO(OfflineBase):
    """beta: weight of the preference beside imitation of the chosen sample. sharpness: s, how fast likelihood falls as
    the error grows. scale: of the difference of likelihoods, which is small since errors are means over dimensions."""

    beta: Weight = 0.1
    sharpness: Positive = 0.5
    scale: Positive = 1000.0

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rejected"})

    def __call__(self, errors: PairErrors) -> Outcome:
        z = self.scale * (self.likelihood(errors.chosen) - self.likelihood(errors.rejected))
        right, wrong = errors.chosen - self.beta * F.logsigmoid(z), errors.rejected - self.beta * F.logsigmoid(-z)
        return Outcome(errors.mean(errors.chance * right + (1 - errors.chance) * wrong), {
            "implicit_accuracy": (z > 0).float(), "margin": z.detach()})

    def likelihood(self, error: Tensor) -> Tensor:
        """f, [B] in (0, 1]; written with exp(-s E), which no error makes overflow."""
        exponent = (self.sharpness * error).clamp(min=torch.finfo(error.dtype).tiny)
        return exponent * torch.exp(-exponent) / -torch.expm1(-exponent)
