"""GRPO for language models: TRL computes the loss, and these are its settings; advantages are those of `AdvantageRule`.

    ratio_t = pi(y_t) / pi_old(y_t),   r_t = log pi(y_t) - log ref(y_t)
    L = sum_t max(-A ratio_t, -A clip(ratio_t, 1 - clip, 1 + clip_high)) + beta (e^{-r_t} - 1 + r_t)

over the answers' tokens, divided by what `length` says: `constant`, the most tokens an answer may have (Dr. GRPO, arXiv
2503.20783); `tokens`, those of the whole batch (DAPO, arXiv 2503.14476); `answer`, each answer's own (GRPO, arXiv
2402.03300). RLOO is advantage.baseline leave_one_out with scale none.

Differs from the papers in: a sample that the rule leaves out has advantage 0, so it still counts in the mean and in the
KL. Recipes: configs/language/grpo.yaml, configs/language/mc_grpo.yaml; with an advantage for each token, by what its
step of the answer changed, configs/language/vsrm.yaml.
"""

from dataclasses import dataclass
from typing import Literal

from visalign.objectives.registry import register
from visalign.validation.ranges import Few, Positive, Ranged, Share, Weight


@register("language_online", "grpo")
@dataclass(frozen=True)
class LanguageGRPO(Ranged):
    """clip, clip_high (None: as clip): how far a ratio may go. beta: weight of the KL to the reference (0: none).

    level: a ratio for each `token`, or one for the `sequence` (GSPO, arXiv 2507.18071), which goes with length answer.
    updates: optimiser steps on the same answers. entropy: weight of a bonus for the entropy of tokens. top_entropy:
    learn from this share of the tokens only, those of the highest entropy. truncated: whether answers that did not end
    by themselves are learnt from.
    """

    clip: Positive = 0.2
    clip_high: Positive | None = None
    beta: Weight = 0.0
    length: Literal["constant", "tokens", "answer"] = "constant"
    level: Literal["token", "sequence"] = "token"
    updates: Few = 1
    entropy: Weight = 0.0
    top_entropy: Share = 1.0
    truncated: bool = True

    def __post_init__(self):
        super().__post_init__()
        if self.level == "sequence" and self.length != "answer":
            raise ValueError(f"level sequence goes with length answer, got {self.length}: one ratio counts as much as "
                             "another, whatever the lengths of their answers")

    @property
    def compares(self) -> bool:
        """Whether the loss compares the answers of a group, which are then learnt from together."""
        return False
