"""Losses that train a reward model on comparisons and ratings, one per labelled dimension.

With m = r_a - r_b, and z = m - margin * strength for a pair in which a is preferred:

    Bradley-Terry          -log s(z)
    hinge (PAL)            max(0, 1 - z), nothing of a pair that is ordered by more than 1
    Rao-Kupper, k > 1      P(a) = s(z - log k), P(tie) = (k^2 - 1) s(m - log k) s(-m - log k)   (VideoReward: k = 5)
    Davidson, nu > 0       P(a), P(b), P(tie) = softmax(z/2, -z/2, log nu)
    win-tie (SoliReward)   -log s(m - margin); ties: -log s(m - margin) - log s(-m - margin), least at m = 0
    soft (Crome)           ties: -1/2 [log s(m) + log s(-m)], the label 1/2, whatever the margin
    square                 ties: (r_a - r_b)^2 (MM-RLHF)
    regression             (r - rating)^2, or binary cross-entropy of s(r) against a good/bad label

Differs from the papers in: dimensions without a label are masked (VideoAlign marks them 22, here NaN) and every
member of an ensemble has its own weights for the pairs: the product of filters, of which a bootstrap is one.
Recipe: configs/reward_model/open_clip.yaml.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.base import Outcome
from visalign.objectives.label_noise import LabelNoise
from visalign.objectives.peers import easy_for_peers, share_dropped
from visalign.objectives.registry import register
from visalign.validation.ranges import AboveOne, Fraction, Positive, Ranged, UnderHalf, Weight

Filter = Callable[[Tensor], Tensor]
"""From losses [B, E, D] (without gradients, NaN where there is no label) to a factor [B, E] of each pair's weight."""


def bootstrap(weight: Tensor) -> Filter:
    """The filter that weighs pairs by a bootstrap's counts [B, E], whatever their losses."""
    return lambda losses: weight


class Comparison(NamedTuple):
    """Rewards and labels of a batch of pairs; NaN marks a label that is missing.

    a, b: rewards [B, E, D] of E ensemble members in D dimensions, or embeddings [B, E, D, 2k]. outcome: 1 where a is
    preferred, 0 where b is, 0.5 for a tie, [B, D]. strength: [B]. rating_a, rating_b: [B, D]. filters: of the batch;
    each pair's weight for each member is their product, 1 without any. flip_logit: of a learnt share of flipped labels,
    a scalar.
    done: the share of the run that is over.
    doubt: share by which each decided label is smoothed [B], None for that of the objective.
    across: mean of a tensor over the processes that share the batch, so that sparse labels have equal weight on all of
    them. together: the rows of all of them.
    """

    a: Tensor
    b: Tensor
    outcome: Tensor
    strength: Tensor
    rating_a: Tensor
    rating_b: Tensor
    filters: tuple[Filter, ...] = ()
    flip_logit: Tensor | None = None
    done: float = 1.0
    doubt: Tensor | None = None
    across: Callable[[Tensor], Tensor] = lambda tensor: tensor
    together: Callable[[Tensor], Tensor] = lambda tensor: tensor


@register("reward", "preference")
@dataclass(frozen=True)
class RewardModelLoss(Ranged):
    """Settings of the loss.

    shape: what a decided pair costs, `logistic` or `hinge`. ties: how tied pairs are used (`drop`: not at all).
    tie_weight: of their loss (lambda of Crome). centre: of the mean of (r_a + r_b)^2 over decided pairs, which holds
    the reward's zero in its place (MM-RLHF: 0.01). k, nu: of Rao-Kupper and Davidson. margin: what m must exceed, times
    the pair's strength. scaled: multiply by the strength (HelpSteer2). label_smoothing, flip_rate, forward_rate: label
    noise, see label_noise.py. peer_filter: of each batch the share that a member leaves out in the end, since another
    one finds it hard, see peers.py.
    preference_weight, rating_weight: of comparisons and of ratings. rating_loss: `mse` or, for 0/1 labels, `bce`.
    """

    shape: Literal["logistic", "hinge"] = "logistic"
    ties: Literal["drop", "rao_kupper", "davidson", "win_tie", "soft", "square"] = "drop"
    tie_weight: Weight = 1.0
    centre: Weight = 0.0
    k: AboveOne = 5.0
    nu: Positive = 1.0
    margin: Weight = 0.0
    scaled: bool = False
    label_smoothing: UnderHalf = 0.0
    flip_rate: UnderHalf = 0.0
    forward_rate: UnderHalf | Literal["learn"] = 0.0
    peer_filter: Fraction = 0.0
    preference_weight: Weight = 1.0
    rating_weight: Weight = 0.0
    rating_loss: Literal["mse", "bce"] = "mse"

    takes: ClassVar[str] = "rewards"
    """What a head must give."""
    filters: ClassVar[tuple[Filter, ...]] = ()
    """A method that learns from some pairs only names its filters here, as a property of its own settings."""

    def __post_init__(self):
        super().__post_init__()
        self.noise.check()
        if self.shape == "hinge":
            wrong = [f"ties {self.ties}"] * (self.ties != "drop") + [
                name for name in ("label_smoothing", "flip_rate", "forward_rate") if getattr(self, name)]
            if wrong:
                raise ValueError(f"shape hinge says nothing of how likely a label is, and {wrong[0]} is about that; "
                                 "leave one of them out")
        if self.preference_weight == self.rating_weight == 0:
            raise ValueError("preference_weight and rating_weight are both 0, so there is nothing to learn")
        if self.tie_weight != 1 and self.ties == "drop":
            raise ValueError(f"tie_weight {self.tie_weight:g} weighs tied pairs, which ties drop leaves out; choose "
                             "another ties")

    @property
    def noise(self) -> LabelNoise:
        return LabelNoise(self.label_smoothing, self.flip_rate, self.forward_rate)

    def __call__(self, batch: Comparison) -> Outcome:
        m = self.margins(batch.a, batch.b)
        outcome, strength = batch.outcome[:, None].expand_as(m), batch.strength[:, None, None].expand_as(m)
        doubt = None if batch.doubt is None else batch.doubt[:, None, None].expand_as(m)
        losses = self.preference_weight * self.pair_loss(m, outcome, strength, batch.flip_logit, doubt)
        weight = member_weight(losses, (*self.filters, *self._peers(batch), *batch.filters))
        loss = masked_mean(losses, weight, batch.across)
        if self.centre:
            apart = torch.where((outcome == 0) | (outcome == 1), (batch.a + batch.b).square(), float("nan"))
            loss = loss + self.centre * masked_mean(apart, weight, batch.across)
        if self.rating_weight:
            for rewards, ratings in ((batch.a, batch.rating_a), (batch.b, batch.rating_b)):
                errors = self.rating_errors(rewards, ratings)
                loss = loss + self.rating_weight / 2 * masked_mean(errors, weight, batch.across)
        mean = m.detach().mean(1)
        decided = (batch.outcome == 0) | (batch.outcome == 1)
        correct = torch.where(decided, ((mean > 0) == (batch.outcome > 0.5)).float(), float("nan"))
        return Outcome(loss, {"accuracy": correct, "gap": torch.where(decided, mean.abs(), float("nan"))})

    def margins(self, a: Tensor, b: Tensor) -> Tensor:
        """By how much a is preferred to b, [B, E, D]."""
        return a - b

    def _peers(self, batch: Comparison) -> tuple[Filter, ...]:
        if not self.peer_filter:
            return ()
        return (easy_for_peers(share_dropped(self.peer_filter, batch.done), batch.together),)

    def pair_loss(self, m: Tensor, outcome: Tensor, strength: Tensor, flip_logit: Tensor | None = None,
                  doubt: Tensor | None = None) -> Tensor:
        """Loss of each margin m given its outcome (1, 0, 0.5 or NaN), strength and doubt of the label, all of one
        shape; NaN masked."""
        sign = torch.where(outcome < 0.5, -1.0, 1.0)
        toward = sign * m - self.margin * (1 if self.ties == "win_tie" else strength)
        agree, disagree = self._decided(toward), self._decided(-toward)
        decided = (self.noise.loss(agree, disagree, flip_logit) if doubt is None
                   else (1 - doubt) * agree + doubt * disagree)
        if self.scaled:
            decided = decided * strength
        loss = torch.where(outcome == 0.5, self.tie_weight * self._tied(m), decided)
        return torch.where(outcome.isnan(), float("nan"), loss)

    def _decided(self, z: Tensor) -> Tensor:
        """-log probability that the preferred side wins, or its substitute."""
        if self.shape == "hinge":
            return F.relu(1 - z)
        if self.ties == "rao_kupper":
            return -F.logsigmoid(z - math.log(self.k))
        if self.ties == "davidson":
            return torch.logsumexp(torch.stack([z / 2, -z / 2, torch.full_like(z, math.log(self.nu))]), 0) - z / 2
        return -F.logsigmoid(z)

    def _tied(self, m: Tensor) -> Tensor:
        """-log probability of a tie, or its substitute; NaN where ties are dropped."""
        if self.ties == "rao_kupper":
            shift = math.log(self.k)
            return -(math.log(self.k**2 - 1) + F.logsigmoid(m - shift) + F.logsigmoid(-m - shift))
        if self.ties == "davidson":
            log_nu = torch.full_like(m, math.log(self.nu))
            return torch.logsumexp(torch.stack([m / 2, -m / 2, log_nu]), 0) - log_nu
        if self.ties == "win_tie":
            return -F.logsigmoid(m - self.margin) - F.logsigmoid(-m - self.margin)
        if self.ties == "soft":
            return -(F.logsigmoid(m) + F.logsigmoid(-m)) / 2
        if self.ties == "square":
            return m.square()
        return torch.full_like(m, float("nan"))

    def rating_errors(self, rewards: Tensor, ratings: Tensor) -> Tensor:
        """Per-element loss of rewards [B, E, D] against ratings [B, D]; NaN where there is no rating."""
        target = ratings[:, None].expand_as(rewards)
        known = ~target.isnan()
        filled = torch.where(known, target, 0.0)
        if self.rating_loss == "bce":
            errors = F.binary_cross_entropy_with_logits(rewards, filled, reduction="none")
        else:
            errors = (rewards - filled).square()
        return torch.where(known, errors, float("nan"))


def member_weight(losses: Tensor, filters: Iterable[Filter]) -> Tensor:
    """Weight [B, E] of each pair for each member, from losses [B, E, D]: the product of the filters, 1 without any."""
    weight = torch.ones_like(losses[..., 0])
    for each in filters:
        weight = weight * each(losses.detach())
    return weight


def masked_mean(losses: Tensor, weight: Tensor, across: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Tensor:
    """Losses [B, E, D] with NaN where missing: weighted mean over B in each dimension, then mean over E and D.

    Dimensions without a single label (in any process) do not count; 0 when there is none at all.
    """
    known = ~losses.isnan()
    weights = weight[..., None] * known
    total = across(weights.sum(0))
    means = (torch.where(known, losses, 0.0) * weights).sum(0) / total.clamp(min=1e-6)
    return means.sum() / (total > 0).sum().clamp(min=1)
