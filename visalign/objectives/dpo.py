"""Diffusion-DPO and Flow-DPO: prefer the chosen sample by lowering its error more than the rejected one's.

Diffusion-DPO: Wallace et al. 2023 (arXiv 2311.12908), eq. 14. Flow-DPO: Liu et al. 2025 (arXiv 2501.13918).

    inside = -(beta/2) [ (E_w - E_l) - (E_ref_w - E_ref_l) ],   loss = -log sigmoid(inside)

where E = mean squared prediction error, at the same time and noise for both samples of a pair.

Differs from the papers in: nothing with the default settings and certain labels. The options are cDPO and rDPO label
noise, IPO and hinge (SLiC) links, the RPO regulariser, a margin that grows with the strength of the preference, and
VPO's value term; answers of a language model take the same (objectives/links.py).

A soft label, the chance p that the chosen sample is really better, takes the loss's mean over both labels,
p l(z) + (1 - p) l(-z), with every link: p = 1 is the loss above, p = 1 - e for all pairs is cDPO with e, p = 1/2 pulls
to the reference, and IPO's target 1/(2 tau) becomes (2p - 1)/(2 tau) up to a constant.

Diffusion-NPO (Wang et al. 2025, arXiv 2505.11245) is the same on swapped pairs (`data.swap`), on which inside becomes
-inside; guidance leads away from the adapter that is learnt so (`visalign generate --negative-adapter`).
Recipes: configs/sdxl_dpo.yaml, configs/sd3_flow_dpo.yaml, configs/sd15_npo.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors
from visalign.objectives.links import PairOptions
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive


@dataclass(frozen=True)
class PreferenceOptions(PairOptions, OfflineBase):
    """Of images: errors are means over dimensions, hence a beta of thousands; sft_weight multiplies E_w; margin_of
    names the one reward that the pairs carry, as data.score_with or data.feedback.reward call it, or `reward`."""

    beta: Positive = 5000.0

    def __post_init__(self):
        super().__post_init__()
        if len(self.margin_of or ()) > 1:
            raise ValueError(f"margin_of names {len(self.margin_of)} rewards, but pairs of images carry one; combine "
                             "them into one with data.score_with")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rejected", "reference"} | ({"rewards"} if self.margin_of else set()))

    @property
    def standardise(self) -> str:
        """How rewards are standardised that the pairs carry: see `trainers.offline.encoded_pairs.standardised`."""
        return "dataset"

    def time_weight(self, noise_fraction: Tensor) -> Tensor:
        """beta_t / beta, [B]."""
        return torch.ones_like(noise_fraction)

    def margin_factor(self, errors: PairErrors) -> Tensor | float:
        """By which the margin of each pair is multiplied in the loss, [B] or one number for all."""
        return 1.0

    def __call__(self, errors: PairErrors) -> Outcome:
        h = unscaled_margin(errors) * self.time_weight(errors.noise_fraction)
        z = self.beta * h
        factor = self.margin_factor(errors)
        loss = self.loss_of(factor * z, factor * h, errors)
        if self.sft_weight:
            loss = loss + self.sft_weight * errors.mean(errors.chosen)
        scale = -0.5 * self.beta * self.time_weight(errors.noise_fraction)
        chosen, rejected = (scale * (error - ref) for error, ref in ((errors.chosen, errors.ref_chosen),
                                                                     (errors.rejected, errors.ref_rejected)))
        return Outcome(loss + self.value_term(chosen / self.beta, errors), {
            "implicit_accuracy": (z > 0).float(),
            "margin": z.detach(),
            "reward_chosen": chosen.detach(),
            "reward_rejected": rejected.detach(),
        })


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
