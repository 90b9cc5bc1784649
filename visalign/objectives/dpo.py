"""Diffusion-DPO and Flow-DPO: prefer the chosen sample by lowering its error more than the rejected one's.

Diffusion-DPO: Wallace et al. 2023 (arXiv 2311.12908), eq. 14. Flow-DPO: Liu et al. 2025 (arXiv 2501.13918).

    inside = -(beta/2) [ (E_w - E_l) - (E_ref_w - E_ref_l) ],   loss = -log sigmoid(inside)

where E = mean squared prediction error, at the same time and noise for both samples of a pair.

Differs from the papers in: nothing with the default settings and certain labels. The options are cDPO and rDPO label
noise, IPO and hinge (SLiC) links, the RPO regulariser, and a margin that grows with the strength of the preference.

A soft label, the chance p that the chosen sample is really better, takes the loss's mean over both labels,
p l(z) + (1 - p) l(-z), with every link: p = 1 is the loss above, p = 1 - e for all pairs is cDPO with e, p = 1/2 pulls
to the reference, and IPO's target 1/(2 tau) becomes (2p - 1)/(2 tau) up to a constant.
Recipes: configs/sdxl_dpo.yaml, configs/sd3_flow_dpo.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors
from visalign.objectives.label_noise import check_label_noise, noisy_label_loss
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, UnderHalf, Weight


@dataclass(frozen=True)
class PreferenceOptions(OfflineBase):
    """Options both methods share.

    beta: strength of the pull towards the reference; errors are means over dimensions, hence thousands.
    link: `sigmoid` (Bradley-Terry), `hinge` max(0, 1 - z), or `ipo` (h - 1/(2 tau))^2 with h = z / beta.
    label_smoothing: cDPO, the assumed share of flipped labels, 0 <= e < 0.5.
    flip_rate: rDPO, the loss that is unbiased under that share of flipped labels, 0 <= e < 0.5.
    sft_weight: RPO, adds sft_weight * E_w. margin: z is lowered by margin * strength.
    """

    beta: Positive = 5000.0
    link: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    ipo_tau: Positive = 0.1
    label_smoothing: UnderHalf = 0.0
    flip_rate: UnderHalf = 0.0
    sft_weight: Weight = 0.0
    margin: Weight = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"rejected", "reference"})

    def __post_init__(self):
        super().__post_init__()
        check_label_noise(self.label_smoothing, self.flip_rate)
        if self.link != "sigmoid" and (self.label_smoothing or self.flip_rate):
            raise ValueError(f"label_smoothing and flip_rate need link 'sigmoid', got link '{self.link}'")

    def time_weight(self, noise_fraction: Tensor) -> Tensor:
        """beta_t / beta, [B]."""
        return torch.ones_like(noise_fraction)

    def __call__(self, errors: PairErrors) -> Outcome:
        h = unscaled_margin(errors) * self.time_weight(errors.noise_fraction)
        z = self.beta * h
        loss = errors.mean(self._expected_loss(z - self.margin * errors.strength, h, errors.chance))
        if self.sft_weight:
            loss = loss + self.sft_weight * errors.mean(errors.chosen)
        scale = -0.5 * self.beta * self.time_weight(errors.noise_fraction)
        return Outcome(loss, {
            "implicit_accuracy": (z > 0).float(),
            "margin": z.detach(),
            "reward_chosen": (scale * (errors.chosen - errors.ref_chosen)).detach(),
            "reward_rejected": (scale * (errors.rejected - errors.ref_rejected)).detach(),
        })

    def _expected_loss(self, z: Tensor, h: Tensor, chance: Tensor | float) -> Tensor:
        """Mean of the loss over the label, which is right with probability `chance`, [B]."""
        return chance * self._link_loss(z, h) + (1 - chance) * self._link_loss(-z, -h)

    def _link_loss(self, z: Tensor, h: Tensor) -> Tensor:
        if self.link == "hinge":
            return F.relu(1 - z)
        if self.link == "ipo":
            return (h - 1 / (2 * self.ipo_tau)).square()
        return noisy_label_loss(-F.logsigmoid(z), -F.logsigmoid(-z), self.label_smoothing, self.flip_rate)


def unscaled_margin(errors: PairErrors) -> Tensor:
    """-(1/2) [ (E_w - E_l) - (E_ref_w - E_ref_l) ], [B]."""
    return -0.5 * ((errors.chosen - errors.rejected) - (errors.ref_chosen - errors.ref_rejected))


@register("offline", "diffusion_dpo")
@dataclass(frozen=True)
class DiffusionDPO(PreferenceOptions):
    """Wallace et al. 2023; epsilon and v prediction alike."""

    process: ClassVar[str] = "diffusion"


@register("offline", "flow_dpo")
@dataclass(frozen=True)
class FlowDPO(PreferenceOptions):
    """Liu et al. 2025. weighting `constant` (which the paper found better) or `derived`: beta_t = beta (1 - t)^2."""

    weighting: Literal["constant", "derived"] = "constant"

    process: ClassVar[str] = "flow"

    def time_weight(self, noise_fraction: Tensor) -> Tensor:
        if self.weighting == "derived":
            return (1 - noise_fraction).square()
        return torch.ones_like(noise_fraction)
