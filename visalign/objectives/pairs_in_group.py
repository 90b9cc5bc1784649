"""All pairs of one prompt's samples that differ in reward, for images and for answers: DPO within a group, online.

    q_i = log-ratio of sample i to the reference, a mean over its tokens (or the sampling step's log-probability)
    L   = -mean over pairs (i better than j) of log s(beta (q_i - q_j)) + kl KL(pi || ref)

For answers this is TRPA (Su et al. 2025), whose rewards are levels, 1 the best: a pair whose better answer has level 1
counts with best_weight beta, and a group of one level learns -log s(q) where it is level 1, -log s(-q) where it is not.

Differs from the paper in: best_weight multiplies beta, as the paper's code has it, rather than the pair's loss. For
images it is D3PO with all pairs and without its clip; levels are unknown there, so no pair is a best one.
Recipes: configs/online/pairs_in_group.yaml, configs/language/trpa.yaml.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.language import TokenLogs
from visalign.objectives.online import OnlineBase, StepTerms, members_of, whole_groups
from visalign.objectives.policy import kl_to_reference
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Weight


@dataclass(frozen=True)
class AnswerTerms:
    """Own answers of a micro-batch of whole groups, each [B] float32: advantage, mean log-probability of a token under
    the policy and the reference, KL to the reference per token; group, level int64, 1 the best (None: unknown)."""

    advantage: Tensor
    log_prob: Tensor
    ref_log_prob: Tensor
    kl: Tensor
    group: Tensor
    level: Tensor | None

    @classmethod
    def of_side(cls, side: TokenLogs, advantage: Tensor, group: Tensor, level: Tensor | None) -> "AnswerTerms":
        """From the answers' tokens; the KL by Schulman's estimator e^{-r} - 1 + r, r = log pi - log ref."""
        ratio = side.log_ratios
        return cls(advantage, side.averaged(side.log_probs), side.averaged(side.ref_log_probs),
                   side.averaged((-ratio).exp() - 1 + ratio), group, level)


@register("online", "pairs_in_group")
@register("language_online", "pairs_in_group")
@dataclass(frozen=True)
class PairsInGroup(OnlineBase):
    """DPO over all pairs of a prompt's samples that differ in reward.

    beta: scale of the log-ratios. best_weight: times beta for pairs whose better answer has level 1. kl: weight of the
    KL to the reference.
    """

    beta: Positive = 0.1
    best_weight: Positive = 2.5
    kl: Weight = 0.001

    view: ClassVar[str] = "steps"
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    compares: ClassVar[bool] = True
    updates: ClassVar[int] = 1

    def __post_init__(self):
        super().__post_init__()
        if self.best_of:
            raise ValueError("best_of does not go with pairs of whole groups")

    @property
    def least_group(self) -> int:
        return 2

    def unit_size(self, group_size: int) -> int:
        return group_size

    def select(self, advantages: Tensor, trained: Tensor, groups: Tensor) -> list[tuple[int, ...]]:
        return whole_groups(advantages, trained, groups)

    def __call__(self, terms: StepTerms | AnswerTerms) -> Outcome:
        q = terms.log_prob - terms.ref_log_prob
        level = terms.level if isinstance(terms, AnswerTerms) else None
        worth = terms.advantage if level is None else -level
        parts = [self._group(q[members], worth[members], None if level is None else level[members] == 1)
                 for members in members_of(terms.group)]
        kl = terms.kl if isinstance(terms, AnswerTerms) else kl_to_reference(terms, "step_scaled")
        loss = torch.stack([part for part, _ in parts]).mean() + self.kl * kl.mean()
        accuracy = torch.cat([ranked for _, ranked in parts])
        places = torch.cat(members_of(terms.group))
        return Outcome(loss, {
            "log_prob": terms.log_prob.detach(), "implicit_reward": (self.beta * q).detach(), "kl": kl.detach(),
            "implicit_accuracy": torch.empty_like(accuracy).index_copy_(0, places, accuracy)})

    def _group(self, q: Tensor, worth: Tensor, best: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of a group, and of each sample the share of its pairs that the policy orders rightly (a half where
        it has none)."""
        better, worse = (worth[:, None] > worth[None, :]).nonzero(as_tuple=True)
        if not len(better):
            sign = 0.0 if best is None else 1.0 if best[0] else -1.0
            return -F.logsigmoid(sign * q).mean(), torch.full_like(q, 0.5)
        scale = self.beta if best is None else torch.where(best[better], self.best_weight * self.beta, self.beta)
        z = scale * (q[better] - q[worse])
        right = (z > 0).float().detach().repeat(2)
        both = torch.cat([better, worse])
        of_each = torch.zeros_like(q).index_add_(0, both, right)
        pairs = torch.zeros_like(q).index_add_(0, both, torch.ones_like(right))
        return -F.logsigmoid(z).mean(), torch.where(pairs > 0, of_each / pairs.clamp(min=1), 0.5).detach()


def levels_of(rewards: Tensor, least: Tensor) -> Tensor:
    """Level of each sample, int64 [n], from rewards [n, M], the most basic first, and what each must reach, [M].

    1 where all are reached, M + 1 where the first is not, whatever else is; 0, unknown, where one is NaN.
    """
    reached = (rewards >= least).long().cumprod(1).sum(1)
    return (rewards.shape[1] + 1 - reached).masked_fill(rewards.isnan().any(1), 0)
