"""Step-aware preference optimisation: DPO between two candidates of one sampling step.

    L = -log s(beta (log R_w - log R_l)),   R = clip(p / p_ref, 1 - clip, 1 + clip) of that step,

w and l the best and the worst of several candidates from the same latents by a latent reward, where it tells them apart
(Liang et al. 2024, arXiv 2406.04314). It is D3PO's loss, on pairs that share all that came before.

Differs from the paper in: the loss is a mean over all steps at which candidates are drawn, and those without a pair
count as 0, so that it does not depend on how samples are divided among processes; its code takes the mean over pairs,
which AdamW hardly sees. Recipes: configs/online/spo.yaml, configs/online/sd15_spo.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.online import StepTerms
from visalign.objectives.policy import StepPairs
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive


@register("online", "spo")
@dataclass(frozen=True)
class SPO(StepPairs):
    """Learns from siblings, which `rollout.siblings` draws; rewards of whole samples teach nothing."""

    beta: Positive = 10.0

    view: ClassVar[str] = "siblings"
    needs: ClassVar[frozenset[str]] = frozenset({"reference", "siblings"})
    ranks_samples: ClassVar[bool] = False

    def select(self, advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]:
        return [(i,) for i in range(len(groups))]

    def __call__(self, terms: StepTerms) -> Outcome:
        decided = (terms.advantage[0::2] > 0).float()
        losses, metrics = self.of_pairs(terms)
        return Outcome((decided * losses).mean(), metrics | {"decided": decided.repeat_interleave(2)})
