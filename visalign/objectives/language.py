"""Inputs of a language model's objectives: log-probabilities of answers under the policy and the frozen reference.

    lp = sum_t log pi(y_t | x, y_<t) over the answer's tokens, the one that ends it included
    rho = lp - lp_ref,   h = rho_w - rho_l

h has the sign and the role of the images' margin, -(1/2)[(E_w - E_l) - (E_ref_w - E_ref_l)], so that links, label
noise, soft labels and margins are the same functions for both (objectives/links.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from visalign.objectives.base import Outcome, of_one_process
from visalign.objectives.links import Labels
from visalign.validation.ranges import Ranged


@dataclass(frozen=True, kw_only=True)
class TokenLogs:
    """One side of a batch of B pairs, token by token; L positions that hold every answer, padded.

    log_probs [B, L] float32 of the tokens that stand there; `mask` [B, L] bool says which belong to the answer. logits
    [B, L, V] are the scores from which each token was predicted, `ref_*` the frozen reference's, without gradients.
    hidden [B, L, N, D]: the reference's hidden states of all N layers where the token was predicted. teachers: logits
    [B, L, V] of frozen models, by name. reward_mask, kl_mask [B, L]: what `sparse_po`'s learnt heads make of `hidden`.
    What no objective needs is None or empty.
    """

    log_probs: Tensor
    mask: Tensor
    ref_log_probs: Tensor | None = None
    logits: Tensor | None = None
    ref_logits: Tensor | None = None
    hidden: Tensor | None = None
    reward_mask: Tensor | None = None
    kl_mask: Tensor | None = None
    teachers: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> Tensor:
        """How many tokens each answer has, [B] float32."""
        return self.mask.sum(1).float()

    @property
    def log_ratios(self) -> Tensor:
        """log pi - log ref of each token, 0 outside of the answer, [B, L]."""
        return (self.log_probs - self.ref_log_probs).masked_fill(~self.mask, 0.0)

    def summed(self, values: Tensor) -> Tensor:
        """Sum over the answer's tokens, [B, L] -> [B]."""
        return values.masked_fill(~self.mask, 0.0).sum(1)

    def averaged(self, values: Tensor) -> Tensor:
        """Mean over the answer's tokens, [B, L] -> [B]; 0 for an answer without any."""
        return per_token(self.summed(values), self.tokens)


@dataclass(frozen=True, kw_only=True)
class PairLogs(Labels):
    """Log-probabilities of one batch of pairs, or of single answers; every tensor is float32 [B] unless said.

    chosen, rejected: lp under the policy; `ref_*` under the reference; `*_tokens`: their numbers of tokens. strength:
    how much better the chosen answer is (1 where the data do not say). `*_reward`: of both answers, standardised.
    gaps: by reward, chosen minus rejected, in standard deviations of that reward over the data; columns: further
    numbers of the rows, by the name of their column. desirable [B] bool: of single answers, whether they are good.
    revisions: rho of each answer as a revision of another, see `srpo`. `*_side`: the same answers token by token.
    across: mean of a tensor over the processes that share the batch. What no objective needs is None or empty.
    """

    chosen: Tensor
    chosen_tokens: Tensor
    strength: Tensor | float = 1.0
    rejected: Tensor | None = None
    rejected_tokens: Tensor | None = None
    ref_chosen: Tensor | None = None
    ref_rejected: Tensor | None = None
    chosen_reward: Tensor | None = None
    rejected_reward: Tensor | None = None
    gaps: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    desirable: Tensor | None = None
    revisions: Mapping[str, Tensor] = field(default_factory=dict)
    chosen_side: TokenLogs | None = None
    rejected_side: TokenLogs | None = None
    across: Callable[[Tensor], Tensor] = of_one_process

    @classmethod
    def of_sides(cls, chosen: TokenLogs, rejected: TokenLogs | None = None, **more) -> "PairLogs":
        """Sums and numbers of tokens from both sides; `more`: the other fields."""
        sums: dict = {}
        for name, side in (("chosen", chosen), ("rejected", rejected)):
            if side is not None:
                sums |= {name: side.summed(side.log_probs), f"{name}_tokens": side.tokens, f"{name}_side": side}
                if side.ref_log_probs is not None:
                    sums[f"ref_{name}"] = side.summed(side.ref_log_probs)
        return cls(**sums, **more)

    @property
    def rho_chosen(self) -> Tensor:
        return self.chosen - self.ref_chosen

    @property
    def rho_rejected(self) -> Tensor:
        return self.rejected - self.ref_rejected

    @property
    def h(self) -> Tensor:
        """rho_w - rho_l, [B]."""
        return self.rho_chosen - self.rho_rejected

    @property
    def chosen_per_token(self) -> Tensor:
        """lp_w / |y_w|, [B]."""
        return per_token(self.chosen, self.chosen_tokens)

    @property
    def rejected_per_token(self) -> Tensor:
        """lp_l / |y_l|, [B]."""
        return per_token(self.rejected, self.rejected_tokens)

    @property
    def h_per_token(self) -> Tensor:
        """rho_w / |y_w| - rho_l / |y_l|, [B]."""
        return per_token(self.rho_chosen, self.chosen_tokens) - per_token(self.rho_rejected, self.rejected_tokens)

    def reward_gap(self, name: str) -> Tensor:
        """Chosen minus rejected of a reward that the pairs carry, [B]."""
        return self.gaps[name]


def per_token(sums: Tensor, tokens: Tensor) -> Tensor:
    """sums / tokens, [B]; 0 for an answer without tokens."""
    return sums / tokens.clamp(min=1)


def nll(logs: PairLogs, per: str) -> Tensor:
    """Negative log-likelihood of the chosen answers, a scalar: per `token` of the batch (long answers count more, as
    TRL's `sft` has it), of each `answer` per token and then averaged, or the `sum` over each answer averaged."""
    if per == "token":
        return -(logs.weight * logs.chosen).sum() / logs.chosen_tokens.sum().clamp(min=1)
    return -logs.mean(logs.chosen_per_token if per == "answer" else logs.chosen)


class LanguageObjective(Protocol):
    """Settings and loss of one method of a language model.

    needs: subset of
        rejected        a second answer           reference      the frozen model's log-probabilities
        tokens          TokenLogs of both sides   distributions  their logits and ref_logits
        hidden          the reference's states    teacher        logits of the models named in `teachers`
        revision        `PairLogs.revisions`      rewards        `PairLogs.gaps` of the rewards in `rewards`
        desirable       single answers' labels, or pairs, whose chosen answers are the good ones
    columns: further columns of the rows, put into `PairLogs.columns`.
    """

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def rewards(self) -> tuple[str, ...]: ...

    @property
    def teachers(self) -> tuple[str, ...]: ...

    def __call__(self, logs: PairLogs) -> Outcome: ...


@dataclass(frozen=True)
class LanguageBase(Ranged):
    """Defaults of a language model's methods: the chosen answers alone."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset()

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def rewards(self) -> tuple[str, ...]:
        return ()

    @property
    def teachers(self) -> tuple[str, ...]:
        return ()


def pair_report(logs: PairLogs, z: Tensor, reward_chosen: Tensor, reward_rejected: Tensor) -> dict[str, Tensor]:
    """The metrics of a batch of pairs, [B] and without gradients, named as those of images.

    `displaced` is 1 where the chosen answer became less likely than under the reference.
    """
    metrics = {"implicit_accuracy": (z > 0).float(), "margin": z, "reward_chosen": reward_chosen,
               "reward_rejected": reward_rejected, "log_prob_chosen": logs.chosen, "log_prob_rejected": logs.rejected,
               "ranked": (logs.chosen > logs.rejected).float()}
    if logs.ref_chosen is not None:
        metrics["displaced"] = (logs.chosen < logs.ref_chosen).float()
    return {name: values.detach() for name, values in metrics.items()}


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, without the loss of digits at either end (Maechler 2012)."""
    return torch.where(x > -0.6931472, torch.log(-torch.expm1(x)), torch.log1p(-torch.exp(x)))
