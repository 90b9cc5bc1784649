"""A smaller model learns preferences from aligned ones, token by token.

    dckd          w_sft NLL(y_w) + mean over both answers of (1/|y|) sum_t KL(teacher || pi)
    adpa          w_sft NLL(y_w) - weight c (1/|y|) sum_t sum_v pi(v) A(v),   A = log p_aligned - log p_before
    align_distil  (1/|y|) sum_t (beta / a_t) KL(pi || softmax(a_t (aligned - reversed) + aligned)),
                  a_t = beta_contrast sum_v |p_aligned - p_reversed| + 0.001

DCKD and ADPA: Gao et al. 2025 (ICLR). AlignDistil: Zhang et al. 2025 (arXiv 2503.02832). Teachers share the tokenizer
of the student; `teachers` of an objective names them, and `TokenLogs.teachers` holds their logits.

Differs from the papers in: nothing known. c of ADPA is 1, or the answer's importance exp(lp - lp_ref), through
which gradients pass, as in the authors' code.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.language import LanguageBase, PairLogs, TokenLogs, nll
from visalign.objectives.registry import register
from visalign.validation.ranges import Positive, Weight

LOGIT_RANGE = 50.0
"""Teacher logits stay within this distance of their middle: beyond it float32 has no digits left for the rest."""

LEAST_CONTRAST = 1e-3


@dataclass(frozen=True)
class _FromTeachers(LanguageBase):
    """`on`, where it is a setting, says whose tokens are learnt: the `chosen` or the `rejected` answers' or `both`."""

    @property
    def sides(self) -> tuple[str, ...]:
        on = getattr(self, "on", "both")
        return ("chosen", "rejected") if on == "both" else (on,)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"tokens", "distributions", "teacher"} | ({"rejected"} if "rejected" in self.sides else set()))

    def _of_sides(self, logs: PairLogs) -> list[TokenLogs]:
        return [getattr(logs, f"{side}_side") for side in self.sides]


@register("language", "dckd")
@dataclass(frozen=True)
class DCKD(_FromTeachers):
    """Forward KL to an aligned teacher on both answers of a pair. sft_weight: of imitating the chosen answer."""

    sft_weight: Weight = 1.0

    @property
    def teachers(self) -> tuple[str, ...]:
        return ("aligned",)

    def __call__(self, logs: PairLogs) -> Outcome:
        kl = mean_of([side.averaged(divergence(side.teachers["aligned"], side.logits))
                      for side in self._of_sides(logs)])
        loss = logs.mean(kl) + (self.sft_weight * nll(logs, "answer") if self.sft_weight else 0.0)
        return Outcome(loss, {"teacher_kl": kl.detach(), "log_prob_chosen": logs.chosen.detach()})


@register("language", "adpa")
@dataclass(frozen=True)
class ADPA(_FromTeachers):
    """The teacher's change by alignment is an advantage for every token of answers that the student sampled.

    sft_weight: of imitating the chosen answer, which alone holds the student where it was. weight: of the advantage.
    on: which answers the student sampled, usually the `rejected` ones. importance: answers count by how much likelier
    they are to the student now than to its reference, which sampled them.
    """

    sft_weight: Weight = 1.0
    weight: Positive = 1.0
    on: Literal["chosen", "rejected", "both"] = "rejected"
    importance: bool = False

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | ({"reference"} if self.importance else set())

    @property
    def teachers(self) -> tuple[str, ...]:
        return ("aligned", "before")

    def __call__(self, logs: PairLogs) -> Outcome:
        gained = mean_of([self._counted(side) * side.averaged(expected_advantage(side))
                          for side in self._of_sides(logs)])
        loss = -self.weight * logs.mean(gained)
        if self.sft_weight:
            loss = loss + self.sft_weight * nll(logs, "answer")
        return Outcome(loss, {"advantage": gained.detach(), "log_prob_chosen": logs.chosen.detach()})


    def _counted(self, side: TokenLogs) -> Tensor | float:
        """c, [B]."""
        return side.summed(side.log_ratios).exp() if self.importance else 1.0


@register("language", "align_distil")
@dataclass(frozen=True)
class AlignDistil(_FromTeachers):
    """Reverse KL to a model beyond the aligned one, away from one that was trained on swapped pairs; further where the
    two differ more. beta: scale of the loss. beta_contrast: how far beyond, 10 in the paper."""

    beta: Positive = 0.1
    beta_contrast: Positive = 10.0
    on: Literal["chosen", "rejected", "both"] = "chosen"

    @property
    def teachers(self) -> tuple[str, ...]:
        return ("aligned", "reversed")

    def __call__(self, logs: PairLogs) -> Outcome:
        losses, contrasts = zip(*map(self._side, self._of_sides(logs)), strict=True)
        loss = mean_of(list(losses))
        return Outcome(logs.mean(loss), {"teacher_kl": loss.detach(), "contrast": mean_of(list(contrasts)).detach(),
                                         "log_prob_chosen": logs.chosen.detach()})

    def _side(self, side: TokenLogs) -> tuple[Tensor, Tensor]:
        """The loss and the mean distance of the two teachers of each answer, [B]."""
        aligned, reverse = (side.teachers[name].float().log_softmax(-1) for name in self.teachers)
        distance = (aligned.exp() - reverse.exp()).abs().sum(-1)
        strength = self.beta_contrast * distance + LEAST_CONTRAST
        teacher = bounded(strength[..., None] * (aligned - reverse) + aligned)
        kl = divergence(side.logits, teacher)
        return side.averaged(self.beta / strength * kl), side.averaged(distance)


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """KL(p || q) of the distributions with these logits [..., V], in nats, [...]."""
    p, q = logits.float().log_softmax(-1), others.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def expected_advantage(side: TokenLogs) -> Tensor:
    """sum_v pi(v) (log p_aligned(v) - log p_before(v)) at each token, [B, L]."""
    aligned, before = (side.teachers[name].float().log_softmax(-1) for name in ("aligned", "before"))
    return (side.logits.float().softmax(-1) * (aligned - before)).sum(-1)


def bounded(logits: Tensor) -> Tensor:
    """Logits [..., V] around 0, none further from it than LOGIT_RANGE."""
    return (logits - logits.amax(-1, keepdim=True) + LOGIT_RANGE).clamp(min=-LOGIT_RANGE)


def mean_of(values: list[Tensor]) -> Tensor:
    """Of tensors of one shape."""
    return torch.stack(values).mean(0)


class TopLogProbs(NamedTuple):
    """A distribution over V tokens, kept as its k likeliest: their log-probabilities and numbers [..., k], and the log
    of what the others have together, [...]."""

    log_probs: Tensor
    tokens: Tensor
    rest: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int = 64) -> "TopLogProbs":
        """From logits [..., V]; a teacher's answers of 200 tokens take 80 kB rather than 40 MB."""
        log_probs = logits.float().log_softmax(-1)
        top, tokens = log_probs.topk(min(k, logits.shape[-1]), -1)
        others = log_probs.scatter(-1, tokens, -torch.inf)
        return cls(top, tokens, others.logsumexp(-1))

    def logits(self, vocabulary: int) -> Tensor:
        """Log-probabilities [..., V], in which all other tokens share the rest evenly."""
        others = max(vocabulary - self.tokens.shape[-1], 1)
        even = (self.rest - torch.tensor(float(others)).log()).unsqueeze(-1)
        return even.expand(*self.rest.shape, vocabulary).scatter(-1, self.tokens, self.log_probs)
