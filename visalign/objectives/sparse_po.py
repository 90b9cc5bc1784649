"""SparsePO and MaPO: DPO in which every token has its own weight. Christopoulou et al. 2024 (arXiv 2410.05102).

    u = sum_t m_t (log pi - log ref)(y_t),   d = sum_t n_t sum_v ref(v)(log pi(v) - log ref(v)),   chosen minus rejected
    L = l(beta (u - d)) + c_u (|m_w|_1 + |m_l|_1) + c_d (|n_w|_1 + |n_l|_1)

The inner sum of d is -KL(ref || pi) at the token. m = n = 1 is TDPO (Zeng et al. 2024, arXiv 2404.11999); m = 1, n = 0
is DPO. Learnt masks read the frozen reference's hidden states of all layers, so that the policy cannot move them.

Differs from the paper in: `activations` (MaPO) averages the reference's hidden states over layers and dimensions; the
paper's choice of activations is recalled.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.objectives.base import Outcome
from visalign.objectives.language import PairLogs, TokenLogs, pair_report
from visalign.objectives.language_pairs import AnswerPairOptions
from visalign.objectives.registry import register
from visalign.validation.ranges import Fraction, Weight

LEAST_MASK = 0.01
"""Mean weight of a token below which there is no gradient left to learn from."""


@register("language", "sparse_po")
@dataclass(frozen=True)
class SparsePO(AnswerPairOptions):
    """DPO in which every token has its own weight.

    mask: weights of tokens, `learnt` from the reference's hidden states, its own `activations` (MaPO), or `whole`,
    all 1. kl_mask: weights of the KL term, the `same`, `independent` ones with heads of their own, or `none`
    without that term. l1_reward, l1_kl: c_u and c_d. dropout: of the learnt heads.
    """

    mask: Literal["learnt", "activations", "whole"] = "learnt"
    kl_mask: Literal["same", "independent", "none"] = "same"
    l1_reward: Weight = 0.0
    l1_kl: Weight = 0.0
    dropout: Fraction = 0.0

    def __post_init__(self):
        super().__post_init__()
        if self.kl_mask == "independent" and self.mask != "learnt":
            raise ValueError(f"kl_mask independent learns heads of its own, which goes with mask learnt, not "
                             f"{self.mask}")

    @property
    def needs(self) -> frozenset[str]:
        needed = {"reference", "tokens"} | ({"distributions"} if self.kl_mask != "none" else set())
        return super().needs | needed | ({"hidden"} if self.mask != "whole" else set())

    def heads(self, layers: int, width: int) -> "TokenMasks | None":
        """What learns the masks of a model with `layers` hidden states of `width` dimensions, where they are learnt;
        the trainer trains it beside the model, with weight decay, and puts its masks into both sides' TokenLogs."""
        if self.mask != "learnt":
            return None
        return TokenMasks(layers, width, self.kl_mask == "independent", self.dropout)

    def __call__(self, logs: PairLogs) -> Outcome:
        u_chosen, d_chosen, m_chosen, n_chosen = self._side(logs.chosen_side)
        u_rejected, d_rejected, m_rejected, n_rejected = self._side(logs.rejected_side)
        h = (u_chosen - d_chosen) - (u_rejected - d_rejected)
        z = self.beta * h
        loss = self.loss_of(z, h, logs) + self.value_term(u_chosen, logs)
        sizes = {"mask": m_chosen + m_rejected, "kl_mask": n_chosen + n_rejected}
        loss = loss + self.l1_reward * logs.mean(sizes["mask"]) + self.l1_kl * logs.mean(sizes["kl_mask"])
        tokens = logs.chosen_side.tokens + logs.rejected_side.tokens
        report = pair_report(logs, z, self.beta * u_chosen, self.beta * u_rejected)
        report |= {f"{name}_mean": (size / tokens.clamp(min=1)).detach() for name, size in sizes.items()}
        self._check(report["mask_mean"])
        return self.with_imitation(loss, logs, report)

    def _side(self, side: TokenLogs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u, d and the sums of both masks of each answer, [B]."""
        reward, kl = self._masks(side)
        divergence = torch.zeros_like(reward) if self.kl_mask == "none" else -kl_from_reference(side)
        return side.summed(reward * side.log_ratios), side.summed(kl * divergence), side.summed(reward), side.summed(kl)

    def _masks(self, side: TokenLogs) -> tuple[Tensor, Tensor]:
        """m and n, [B, L]."""
        if self.mask == "whole":
            reward = torch.ones_like(side.log_probs)
        else:
            reward = activation_mask(side.hidden, side.mask) if self.mask == "activations" else side.reward_mask
        if self.kl_mask == "none":
            return reward, torch.zeros_like(reward)
        return reward, side.kl_mask if self.kl_mask == "independent" else reward

    def _check(self, means: Tensor) -> None:
        mean = means.mean().item()
        if mean < LEAST_MASK:
            raise UserError(f"objective sparse_po: its mask keeps {mean:.2%} of the tokens' weight, too little to "
                            "learn from; lower objective.l1_reward or optim.lr")


class TokenMasks(nn.Module):
    """Heads that weigh tokens: of each layer's hidden state a LayerNorm, a linear map to one number and relu; these are
    mixed by a linear layer without bias and relu. independent: a second set for the KL term."""

    def __init__(self, layers: int, width: int, independent: bool = False, dropout: float = 0.0):
        super().__init__()
        self.sets = nn.ModuleList(_Heads(layers, width, dropout) for _ in range(1 + independent))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [B, L, N, D] of all N layers -> the masks of reward and KL, [B, L] each."""
        masks = [heads(hidden.float()) for heads in self.sets]
        return masks[0], masks[-1]


class _Heads(nn.Module):
    def __init__(self, layers: int, width: int, dropout: float):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.each = nn.ModuleList(nn.Linear(width, 1) for _ in range(layers))
        self.mix, self.dropout = nn.Linear(layers, 1, bias=False), nn.Dropout(dropout)
        nn.init.constant_(self.mix.weight, 1 / layers)  # a negative mix starts with a mask of 0, which never learns

    def forward(self, hidden: Tensor) -> Tensor:
        of_layers = [linear(self.dropout(norm(state))) for norm, linear, state in zip(
            self.norms, self.each, hidden.unbind(2), strict=True)]
        return self.mix(torch.cat(of_layers, -1).relu()).relu().squeeze(-1)


def kl_from_reference(side: TokenLogs) -> Tensor:
    """KL(ref || pi) of each token's distribution, [B, L]."""
    reference = side.ref_logits.float().log_softmax(-1)
    return (reference.exp() * (reference - side.logits.float().log_softmax(-1))).sum(-1)


def activation_mask(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean hidden state of each token, of [B, L, N, D], moved to 0 to 1 within its answer; 1 where all are equal."""
    means = hidden.float().mean((2, 3))
    low = means.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    high = means.masked_fill(~mask, -torch.inf).amax(1, keepdim=True)
    scaled = (means - low) / (high - low)
    return torch.where(high > low, scaled, 1.0).masked_fill(~mask, 0.0)
