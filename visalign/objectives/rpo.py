"""RPO for one subject: imitate a few photographs, and prefer them to the frozen model's images as a reward does.

Miao et al. 2024 (arXiv 2407.12164), by the published code. Of a photograph x and an image y that the frozen model made
of another prompt p, each at its own time and noise (`data.shared_noise: false`),

    k = (E_ref(x) - E(x)) - (E_ref(y) - E(y)),   label ~ Bernoulli(sigmoid(r(x, p) - r(y, p))), drawn at every visit
    loss = E(x) - [ label log sigmoid(k) + (1 - label) log sigmoid(-k) ]

which is Diffusion-DPO's loss with sft_weight 1 and beta 2. E is a mean squared error, so the preference is about a
thousand times weaker than usual and imitation dominates, as published.

Differs from the paper in: the links and label options of Diffusion-DPO may be set. Held-out pairs, if any, take the
mean over both labels. Flow models are compared by their velocity's errors, which is derived. Rewards hardly differ (by
0.01), so that labels are nearly a coin's; `label_scale` above 1 sharpens them. Each visit pairs a photograph with one
image of all, as often as the data have pairs.
Recipes: configs/sd21_rpo.yaml, configs/tiny_subject.yaml.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.objectives.base import Outcome, PairErrors
from visalign.objectives.dpo import PreferenceOptions
from visalign.objectives.links import LabelledPairs, right_after_both
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Weight


@register("offline", "rpo_subject")
@dataclass(frozen=True)
class SubjectRPO(PreferenceOptions):
    """Miao et al. 2024. label_scale: by which the difference of the two rewards is multiplied before a label is drawn
    from it (1: as published)."""

    beta: Positive = 2.0
    sft_weight: Weight = 1.0
    label_scale: Positive = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.margin_of:
            raise ValueError("margin_of: rpo_subject draws its labels by the one reward that the pairs carry; leave "
                             "margin_of out")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"rewards"}

    @property
    def standardise(self) -> str:
        return "none"

    def chance_of(self, pairs: LabelledPairs) -> Tensor | float:
        """The labels, 0 or 1, [B], where they are drawn, else how probable it is that each is 1."""
        gap = torch.as_tensor(pairs.reward_gap("that labels are drawn by"))
        chance = right_after_both(super().chance_of(pairs), torch.sigmoid(self.label_scale * gap))
        return chance if pairs.coin is None else (pairs.coin < chance).float()

    def __call__(self, errors: PairErrors) -> Outcome:
        outcome = super().__call__(errors)
        return Outcome(outcome.loss, outcome.metrics | {"label": torch.as_tensor(self.chance_of(errors))})
