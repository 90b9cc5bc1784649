"""DDIM-InPO: Diffusion-DPO and Flow-DPO at the latents that the model itself would pass through.

Lu et al. 2025 (arXiv 2503.18454). Each sample of a pair is inverted to x_t by the policy, without gradients and without
guidance, and what is learnt there is the prediction that leads back to it:

    eps = (x_t - a_t x0) / sigma_t,   loss = -log sigmoid(-(beta/2) [ (E_w - E_l) - (E_ref_w - E_ref_l) ])

Only the time is shared by both samples of a pair. A few hundred steps are to suffice. SmPO (the same authors, 2025, by
notes on its equations) adds `renoise` and `smooth`: the margin of a pair times 2a - 1, a = e^r_w / (e^r_w + e^r_l).

Differs from the paper in: every row is inverted to its own time exactly, by equally long steps from data, where the
published code stops at the last of ten fixed times below it, and takes the first row's time for all. Times below
inversion_steps / 1000 are raised to that. Dropout is off in the inversion. v prediction learns v of the same eps. The
flow form is derived: Euler's steps from data, the target (x_t - x0) / t, and as a step's noise that of straight paths.
Recipes: configs/sdxl_inpo.yaml, configs/tiny_inpo.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.objectives.base import PairErrors, SamplePasses
from visalign.objectives.dpo import DiffusionDPO, FlowDPO, PreferenceOptions
from visalign.objectives.registry import register
from visalign.validation.ranges import InversionSteps, NoiseLevel, Positive


@dataclass(frozen=True)
class Inversion(PreferenceOptions):
    """Where the samples of a pair are compared.

    inversion_steps: passes of the network from a sample to there. inversion_noise: eta, each of these steps adds eta
    times the noise of a stochastic sampling step between its ends; 0 adds none. renoise: the last step is taken again
    with what is predicted where it led, for one pass more (ReNoise, as in SmPO). smooth: `reward` multiplies the margin
    by how sure the pairs' rewards are of it, each from 0 to 1 over the data set: samples of equal reward teach nothing,
    and where the rejected one's is higher the pair is turned.
    """

    inversion_steps: InversionSteps = 10
    inversion_noise: NoiseLevel = 0.1
    renoise: bool = False
    smooth: Literal["none", "reward"] = "none"

    states: ClassVar[str] = "inverted"

    def __post_init__(self):
        super().__post_init__()
        if self.smooth == "reward" and self.margin_of:
            raise ValueError("smooth and margin_of take the one reward that the pairs carry on different scales: set "
                             "one of them")
        if self.smooth == "reward" and self.link == "calibrated":
            raise ValueError("smooth turns rewards into how sure a pair is, and link 'calibrated' takes them for win "
                             "rates; set one of them")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"rewards"} if self.smooth == "reward" else set())

    @property
    def standardise(self) -> str:
        return "range" if self.smooth == "reward" else super().standardise

    def margin_factor(self, errors: PairErrors) -> Tensor | float:
        """2a - 1 of SmPO with gamma 1, [B]."""
        if self.smooth == "none":
            return 1.0
        return 2 * torch.sigmoid(errors.reward_gap("for smooth")) - 1

    @property
    def passes(self) -> SamplePasses:
        return SamplePasses(1, 1 + self.inversion_steps + self.renoise)


@register("offline", "inpo")
@dataclass(frozen=True)
class InPO(Inversion, DiffusionDPO):
    """Lu et al. 2025, with the options of Diffusion-DPO; beta 5000 for SDXL."""

    beta: Positive = 2000.0


@register("offline", "flow_inpo")
@dataclass(frozen=True)
class FlowInPO(Inversion, FlowDPO):
    """The same of flow models, with the options of Flow-DPO."""

    beta: Positive = 2000.0
