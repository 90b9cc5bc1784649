"""Methods for a language model that learn from pairs of answers by one number a pair, and from single answers.

    dpo    l(beta h)                                              Rafailov et al. 2023 (arXiv 2305.18290)
    simpo  l(beta (lp_w/|y_w| - lp_l/|y_l|) - gamma)              Meng et al. 2024 (arXiv 2405.14734)
    cpl    l(beta lp_w - bias beta lp_l)                          Hejna et al. 2023 (arXiv 2310.13639)
    power  l(beta (w_w (1 + lp_w) - w_l (1 + lp_l))), w = 1/|y|   Rashidinejad and Tian 2024 (arXiv 2412.09544)
    sppo   (rho_w - (p - 1/2) / beta)^2 + (rho_l - (1/2 - p) / beta)^2, p the label's chance
                                                                  Wu et al. 2024 (arXiv 2405.00675)
    sft    -lp_w

with the links l and the options of objectives/links.py; `sft_weight` makes dpo RPO (arXiv 2405.16436).

Differs from the papers in: see each class. Recipes: configs/language/dpo.yaml.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.language import LanguageBase, PairLogs, log1mexp, nll, pair_report, per_token
from visalign.objectives.links import PairOptions, right_after_both
from visalign.objectives.registry import register
from visalign.validation.ranges import Few, Fraction, Portion, Positive, Weight

RARE = -30.0
"""Below this log-likelihood of an answer, N tries hit it N times as often as one, to the last digit."""


@dataclass(frozen=True)
class AnswerPairOptions(PairOptions, LanguageBase):
    """Of answers: sft_per says what the imitation loss is averaged over, `token` (of the whole batch), `answer` (per
    token of each, then over answers) or `sum` (each answer's log-likelihood).
    confidence: CREAM (arXiv 2410.12735), a column with the chance that the label is right, from 0.5 on; what is below
    would teach the flipped label, counts as 0.5 and is counted as `unsure`."""

    sft_per: Literal["token", "answer", "sum"] = "token"
    confidence: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.link == "calibrated":
            raise ValueError("link calibrated needs the win rates of both samples, which pairs of answers do not "
                             "carry; take sigmoid, hinge or ipo")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rejected", "rewards"} if self.margin_of else {"rejected"})

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self.confidence is None else (self.confidence,)

    @property
    def rewards(self) -> tuple[str, ...]:
        return tuple(self.margin_of or ())

    def chance_of(self, pairs: PairLogs) -> Tensor | float:
        chance = super().chance_of(pairs)
        if self.confidence is None:
            return chance
        return right_after_both(chance, pairs.columns[self.confidence].clamp(0.5, 1.0))

    def with_imitation(self, loss: Tensor, logs: PairLogs, metrics: dict[str, Tensor]) -> Outcome:
        """The outcome of a pair loss, once the SFT term is added."""
        if self.sft_weight:
            loss = loss + self.sft_weight * nll(logs, self.sft_per)
        if self.confidence is not None:
            metrics["unsure"] = (logs.columns[self.confidence] < 0.5).float()
        return Outcome(loss, metrics)


@register("language", "dpo")
@dataclass(frozen=True)
class LanguageDPO(AnswerPairOptions):
    """DPO for answers, with the reference's log-probabilities.

    anchor_weight, anchor: mDPO's anchor, adds anchor_weight times -log s(beta rho_w - anchor), which keeps the
    chosen answer from becoming less likely (Wang et al. 2024, arXiv 2406.11839).
    ipo_per: whether link `ipo` takes h of the whole `sequence`, as the paper has it, or of each log-ratio per
    `token`, as TRL has it.
    """

    ipo_per: Literal["sequence", "token"] = "sequence"
    anchor_weight: Weight = 0.0
    anchor: Weight = 0.0

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"reference"}

    def __call__(self, logs: PairLogs) -> Outcome:
        z = self.beta * logs.h
        loss = self.loss_of(z, logs.h if self.ipo_per == "sequence" else logs.h_per_token, logs)
        loss = loss + self.value_term(logs.rho_chosen, logs)
        if self.anchor_weight:
            held = -F.logsigmoid(self.beta * logs.rho_chosen - self.anchor)
            loss = loss + self.anchor_weight * logs.mean(held)
        return self.with_imitation(loss, logs, pair_report(
            logs, z, self.beta * logs.rho_chosen, self.beta * logs.rho_rejected))


@dataclass(frozen=True)
class _WithoutReference(AnswerPairOptions):
    """Pair losses that see the policy alone."""

    def __post_init__(self):
        super().__post_init__()
        if self.link == "ipo":
            raise ValueError("link ipo regresses a log-ratio to the reference, which this objective has not; take dpo")
        if self.value != "none":
            raise ValueError("value weighs a log-ratio to the reference, which this objective has not; take dpo")

    def _outcome(self, logs: PairLogs, z: Tensor, chosen: Tensor, rejected: Tensor) -> Outcome:
        return self.with_imitation(self.loss_of(z, z / self.beta, logs), logs,
                                   pair_report(logs, z, chosen, rejected))


@register("language", "simpo")
@dataclass(frozen=True)
class SimPO(_WithoutReference):
    """Log-likelihoods per token, no reference. gamma: what z must exceed."""

    beta: Positive = 2.0
    gamma: Weight = 0.5

    def __call__(self, logs: PairLogs) -> Outcome:
        chosen, rejected = self.beta * logs.chosen_per_token, self.beta * logs.rejected_per_token
        return self._outcome(logs, chosen - rejected - self.gamma, chosen, rejected)


@register("language", "cpl")
@dataclass(frozen=True)
class CPL(_WithoutReference):
    """Contrastive preference learning: the policy's own log-likelihoods are advantages. bias: lambda, below 1 the
    rejected answer's likelihood counts less, which keeps it from falling without end."""

    bias: Portion = 1.0

    def __call__(self, logs: PairLogs) -> Outcome:
        chosen, rejected = self.beta * logs.chosen, self.beta * logs.rejected
        return self._outcome(logs, chosen - self.bias * rejected, chosen, rejected)


@register("language", "power")
@dataclass(frozen=True)
class PowerDL(_WithoutReference):
    """POWER-DL: a weighted entropy in place of the reference, and labels that move to what the policy believes.

    eta: weight of the likelihood of the chosen answers, per token, times beta. dynamic_labels: 0.001 to 0.3 is usual.
    Differs from the paper in: ranges and the form are recalled; the +w of each side, which is the derivative of
    -w p log p, is derived. With eta and dynamic_labels 0 and answers of one length it is simpo with gamma 0.
    """

    beta: Positive = 2.0
    eta: Weight = 0.0005
    dynamic_labels: Fraction = 0.1

    def __call__(self, logs: PairLogs) -> Outcome:
        chosen, rejected = (self.beta * per_token(log_prob + 1, tokens) for log_prob, tokens in (
            (logs.chosen, logs.chosen_tokens), (logs.rejected, logs.rejected_tokens)))
        outcome = self._outcome(logs, chosen - rejected, chosen, rejected)
        return outcome._replace(loss=outcome.loss + self.eta * self.beta * nll(logs, "answer"))


@register("language", "sppo")
@dataclass(frozen=True)
class SPPO(AnswerPairOptions):
    """Self-play preference optimisation: both log-ratios are led to what the chance of winning says, each on its own.
    With certain labels it is TRL's `sppo_hard`."""

    def __post_init__(self):
        super().__post_init__()
        if (self.link != "sigmoid" or self.noise or self.margin or self.margin_of
                or self.strength_beta):
            raise ValueError("link, label_smoothing, flip_rate, forward_rate, margin, margin_of and strength_beta are "
                             "of losses on a difference, which sppo is not; say how sure labels are by chance, "
                             "soft_labels or confidence")

    @property
    def needs(self) -> frozenset[str]:
        return super().needs | {"reference"}

    def __call__(self, logs: PairLogs) -> Outcome:
        target = (self.chance_of(logs) - 0.5) / self.beta
        losses = (logs.rho_chosen - target).square() + (logs.rho_rejected + target).square()
        loss = logs.mean(losses) + self.value_term(logs.rho_chosen, logs)
        return self.with_imitation(loss, logs, pair_report(
            logs, self.beta * logs.h, self.beta * logs.rho_chosen, self.beta * logs.rho_rejected))


@register("language", "sft")
@dataclass(frozen=True)
class LanguageSFT(LanguageBase):
    """Imitates the chosen answers.

    per: the loss is averaged over the `token`s of the batch, or over each `answer` first. pass_at: N, the probability
    that N tries hit the answer, -log(1 - (1 - e^lp)^N) for each answer, which cares less for what N tries find anyway
    (Chen et al. 2025, arXiv 2502.07154; recalled, the form is derived). 1 is off.
    """

    per: Literal["token", "answer"] = "token"
    pass_at: Few = 1

    def __call__(self, logs: PairLogs) -> Outcome:
        loss = nll(logs, self.per) if self.pass_at == 1 else logs.mean(missed_in(logs.chosen, self.pass_at))
        return Outcome(loss, {"log_prob_chosen": logs.chosen.detach(),
                              "log_prob_per_token": logs.chosen_per_token.detach()})


def missed_in(log_prob: Tensor, tries: int) -> Tensor:
    """-log(1 - (1 - p)^N), p = e^log_prob, [B]; its slope is N (1-p)^(N-1) p / (1 - (1-p)^N) times that of -log p."""
    rare = log_prob < RARE
    inner = log_prob.masked_fill(rare, RARE).double().clamp(max=-1e-6)
    found = log1mexp(tries * log1mexp(inner))
    return -torch.where(rare, log_prob + math.log(tries), found.float())
