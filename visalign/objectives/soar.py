"""SOAR: SFT that also teaches the way back from states that the model's own sampling reaches. No reward, no pairs.

Qin et al. 2026 (arXiv 2604.12617), by its published code. With z0 the sample, z1 the noise, t0 a training time, and t1
one step further on the grid that the model is sampled with:

    z = (1 - t0) z0 + t0 z1                                L0 = mean |v(z, t0) - (z1 - z0)|^2
    z' = z + (t1 - t0) sg[ u + s (v - u) ]                 one step under guidance; u: of the empty prompt
    t' ~ U(t1, 1),  a = (t' - t1) / (1 - t1)
    z'' = (1 - a) z' + a z1                                `points` times, towards the same noise
    Lj = mean |v(z'', t') - (z'' - z0) / t'|^2
    loss = (L0 + weight sum Lj) / (1 + points weight)

With d the step's own error, sg[..] - (z1 - z0), the target at z'' is (z1 - z0) - (t0 - t1) (1 - t') / ((1 - t1) t') d:
the model is told to undo it. Where d = 0 each Lj is SFT's loss at (z0, z1, t'), and weight 0 is SFT.

Differs from the paper in: t' is at least one rollout_steps-th, since the target divides by it; the network's time is
that of t' and not of the nearest of 1,000; no gradient graph is kept of the step; the stochastic paths of the published
code, off there by default, are left out. Recipes: configs/sd3_soar.yaml, configs/tiny_soar.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

from visalign.objectives.base import OfflineBase, Outcome, PairErrors, SamplePasses
from visalign.objectives.registry import register
from visalign.validation.ranges import AtLeastTwo, GuidanceScale, Together, Weight


@register("offline", "soar")
@dataclass(frozen=True)
class SOAR(OfflineBase):
    """points: states beside the plain one at which a sample is learnt, a pass with gradients each. weight: of each
    beside it, 0 is SFT. guidance_scale: of the model's own step, 1 is without. rollout_steps: of the grid it is on.
    """

    points: Together = 6
    weight: Weight = 1.0
    guidance_scale: GuidanceScale = 4.5
    rollout_steps: AtLeastTwo = 40

    process: ClassVar[str] = "flow"
    states: ClassVar[str] = "corrected"

    @property
    def guided(self) -> bool:
        """Whether the step asks for the empty prompt as well."""
        return self.weight > 0 and self.guidance_scale != 1

    @property
    def passes(self) -> SamplePasses:
        return SamplePasses(1 + self.points, 1 + self.guided) if self.weight else SamplePasses(1, 0)

    def __call__(self, errors: PairErrors) -> Outcome:
        """errors.chosen: of all states of a sample by their weights, which add up to 1."""
        return Outcome(errors.mean(errors.chosen), {"chosen_error": errors.chosen.detach()})
