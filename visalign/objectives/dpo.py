"""Diffusion-DPO and Flow-DPO: prefer the chosen sample by lowering its error more than the rejected one's.

Diffusion-DPO: Wallace et al. 2023 (arXiv 2311.12908), eq. 14. Flow-DPO: Liu et al. 2025 (arXiv 2501.13918).

    inside = -(beta/2) [ (E_w - E_l) - (E_ref_w - E_ref_l) ],   loss = -log sigmoid(inside)

where E = mean squared prediction error, at the same time and noise for both samples of a pair.

Differs from the papers in: nothing with the default settings and certain labels. The options are cDPO and rDPO label
noise, IPO and hinge (SLiC) links, the RPO regulariser, a margin or a beta that grows with the preference's strength,
and VPO's value term; answers of a language model take the same (objectives/links.py).

A soft label, the chance p that the chosen sample is really better, takes the loss's mean over both labels,
p l(z) + (1 - p) l(-z), with every link: p = 1 is the loss above, p = 1 - e for all pairs is cDPO with e, p = 1/2 pulls
to the reference, and IPO's target 1/(2 tau) becomes (2p - 1)/(2 tau) up to a constant.

CaPO (Lee et al. 2025, arXiv 2502.02588) is the link `calibrated`. Each pair carries dRc, by how much more often the
chosen sample wins than the rejected one, over the other samples of its prompt, averaged over rewards (data/pareto.py):

    loss = (dRc - z)^2,  z = inside

With dRc = c for all pairs it is beta^2 times IPO with tau = beta / (2 c). `snr_bias`: times s(snr_bias - log SNR).
Differs from the paper in: z is Diffusion-DPO's inside, with its half; `snr_bias` is off where nothing is said.

Diffusion-NPO (Wang et al. 2025, arXiv 2505.11245) is the same on swapped pairs (`data.swap`), on which inside becomes
-inside; guidance leads away from the adapter that is learnt so (`visalign generate --negative-adapter`).
Recipes: configs/sdxl_dpo.yaml, configs/sd3_flow_dpo.yaml, configs/sd15_npo.yaml, configs/sdxl_capo.yaml,
configs/sd3_capo.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors
from visalign.objectives.links import PairOptions
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Signed

OF_STRENGTH = ("margin", "margin_of", "soft_labels", "strength_beta")
"""Options that say how far z is to go, which the link `calibrated` takes from the win rates."""


@dataclass(frozen=True)
class PreferenceOptions(PairOptions, OfflineBase):
    """Of images: errors are means over dimensions, hence a beta of thousands; sft_weight multiplies E_w; margin_of
    names the one reward that the pairs carry, as data.score_with or data.feedback.reward call it, or `reward`.
    snr_bias: b of the link `calibrated`, each pair counts with s(b - log SNR) of its time, which leaves out clean
    times; a large one counts more of them (null: all times alike)."""

    beta: Positive = 5000.0
    snr_bias: Signed | None = None

    def __post_init__(self):
        super().__post_init__()
        beside = next((name for name in OF_STRENGTH if getattr(self, name)), None)
        if self.link == "calibrated" and beside:
            raise ValueError(f"{beside} says how far z is to go, and link 'calibrated' takes that from the win rates; "
                             "leave it out, or take link sigmoid")
        if self.link != "calibrated" and self.snr_bias is not None:
            raise ValueError(f"snr_bias weighs the loss of link 'calibrated', got link '{self.link}'; leave it out")
        if len(self.margin_of or ()) > 1:
            raise ValueError(f"margin_of names {len(self.margin_of)} rewards, but pairs of images carry one; combine "
                             "them into one with data.score_with")

    @property
    def needs(self) -> frozenset[str]:
        with_rewards = self.margin_of or self.link == "calibrated"
        return frozenset({"rejected", "reference"} | ({"rewards"} if with_rewards else set()))

    @property
    def standardise(self) -> str:
        """How rewards are standardised that the pairs carry: see `trainers.offline.encoded_pairs.standardised`."""
        return "win_rates" if self.link == "calibrated" else "dataset"

    def loss_of(self, z: Tensor, h: Tensor, pairs: PairErrors) -> Tensor:
        if self.link != "calibrated":
            return super().loss_of(z, h, pairs)
        gap, chance = pairs.reward_gap("for link calibrated"), self.chance_of(pairs)
        losses = chance * (gap - z).square() + (1 - chance) * (gap + z).square()
        return pairs.mean(losses if self.snr_bias is None else self.snr_weight(pairs) * losses)

    def snr_weight(self, errors: PairErrors) -> Tensor:
        """s(snr_bias - log SNR), [B]."""
        if errors.log_snr is None:
            raise ValueError("snr_bias needs the signal-to-noise ratio of the latents (log_snr)")
        return torch.sigmoid(self.snr_bias - errors.log_snr)

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
