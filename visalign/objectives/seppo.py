"""SePPO: learn from good samples alone; the loser of each is a sample that an earlier self of the run made.

Zhang et al. 2024 (arXiv 2410.05255), by the equations of its reviews; its training code is not published. With x^w the
good sample, ref one of the run's own earlier selves, drawn anew at each step, x^r a sample of ref for the same prompt,
and D = E - E_ref at the same time and noise for both:

    c = sign(E_ref(x^w) - E(x^w)),   inside = -(beta/2) [ D(x^w) - c D(x^r) ],   loss = -log sigmoid(inside)

c = +1, where the policy explains the good sample better than ref: Diffusion-DPO with x^r as the loser. c = -1, where
ref still does: what ref makes counts as good too, and both errors are pulled down. c has no gradient, and sign(0) is
+1, since at the start both are the same model. With c = +1 throughout, and the rejected sample of a pair in the place
of x^r, it is Diffusion-DPO, or Flow-DPO with constant weighting.

Differs from the paper in: the drawn selves are the last `data.own.keep`, of which the start is one until others have
taken its place; c may be told by the mean of several draws; flow models may be trained with it, since only errors
enter. beta is Diffusion-DPO's, since the paper's is not known.
Recipes: configs/sd15_seppo.yaml, configs/tiny_seppo.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import OfflineBase, Outcome, PairErrors, SamplePasses
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Together


@register("offline", "seppo")
@dataclass(frozen=True)
class SePPO(OfflineBase):
    """beta: strength of the pull towards the earlier self. flip: what becomes of its sample where c is -1: `sign`
    counts it as good, `indicator` leaves it out, `none` takes it as the loser all the same. anchors: draws of time and
    noise of the good sample by whose mean c is told; each beyond the first costs a pass of policy and reference,
    without gradients.
    """

    beta: Positive = 2000.0
    flip: Literal["sign", "indicator", "none"] = "sign"
    anchors: Together = 1

    states: ClassVar[str] = "own_reference"

    def __post_init__(self):
        super().__post_init__()
        if self.flip == "none" and self.anchors > 1:
            raise ValueError(f"anchors {self.anchors} tell what flip 'none' does not ask; take flip sign or indicator, "
                             "or anchors 1")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"reference", "own"})

    @property
    def passes(self) -> SamplePasses:
        """Anchors are passes of the good sample alone, two each: one a sample."""
        return SamplePasses(1, self.anchors)

    def __call__(self, errors: PairErrors) -> Outcome:
        lead = self.lead(errors).detach()
        inside = self.beta * unscaled_difference(errors, self.factor(lead))
        chosen, rejected = (-0.5 * self.beta * (error - ref) for error, ref in (
            (errors.chosen, errors.ref_chosen), (errors.rejected, errors.ref_rejected)))
        return Outcome(errors.mean(-F.logsigmoid(inside)), {
            "implicit_accuracy": (chosen > rejected).float(),
            "margin": inside.detach(),
            "reward_chosen": chosen.detach(),
            "reward_rejected": rejected.detach(),
            "reference_ahead": (lead < 0).float(),
        })

    def lead(self, errors: PairErrors) -> Tensor:
        """By how much the policy explains the good sample better than the reference, summed over all draws, [B]."""
        lead = errors.ref_chosen - errors.chosen
        if self.anchors == 1:
            return lead
        return lead + (errors.ref_anchor - errors.anchor)

    def factor(self, lead: Tensor) -> Tensor:
        """c, [B]."""
        behind = {"sign": -1.0, "indicator": 0.0, "none": 1.0}[self.flip]
        return torch.where(lead < 0, behind, 1.0)


def unscaled_difference(errors: PairErrors, factor: Tensor) -> Tensor:
    """-(1/2) [ (E_w - c E_r) - (E_ref_w - c E_ref_r) ], [B]."""
    return -0.5 * ((errors.chosen - factor * errors.rejected) - (errors.ref_chosen - factor * errors.ref_rejected))
