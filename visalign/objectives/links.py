"""What losses on pairs share, of images and of answers: links, label noise, soft labels, margins and value terms.

With h the policy's log-ratio of chosen to rejected in excess of the reference's, and z = beta h:

    sigmoid  -log s(z)         hinge  max(0, 1 - z)         ipo  (h - 1/(2 tau))^2

`calibrated`, (gap - z)^2, is of images alone (objectives/dpo.py). A label that is right with probability p takes the
mean over both labels, p l(z) + (1 - p) l(-z), with every link. What says how sure a label is, the data's `chance`,
`soft_labels` and `dynamic_labels`, counts as independent flips of it.

Label noise: objectives/label_noise.py. MODPO: Zhou et al. 2023 (arXiv 2310.03708). VPO: Cen et al. 2024 (arXiv
2405.19320). Dynamic labels: POWER-DL, Rashidinejad and Tian 2024 (arXiv 2412.09544). A beta that grows with
the strength: MM-RLHF (Zhang et al. 2025, arXiv 2502.10391), as a note on it has it; its code: beta (1 + 0.1 strength).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from visalign.objectives.label_noise import LabelNoise
from visalign.validation.ranges import Fraction, Positive, Ranged, UnderHalf, Weight

LEAST_PART = 0.05
"""Of the preference beside the rewards of `margin_of`; its inverse multiplies the gradient."""


def right_after_both(first: Tensor | float, second: Tensor | float) -> Tensor | float:
    """The probability that a label is right which two independent flips may have turned, right with these."""
    return first * second + (1 - first) * (1 - second)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What is known of the labels of a batch of pairs, each [B] or one number for all.

    chance: how probable it is that the chosen one is better at all (1: certain). label: the same by the table of
    `dynamic_labels`. weight: how much the pair counts beside others. coin: where a label is drawn at every visit, a
    uniform number in [0, 1) for each. flip_logit: of a learnt share of flipped labels, a scalar.
    """

    chance: Tensor | float = 1.0
    label: Tensor | float = 1.0
    weight: Tensor | float = 1.0
    coin: Tensor | None = None
    flip_logit: Tensor | None = None

    def mean(self, losses: Tensor) -> Tensor:
        """The loss of the batch from those of its pairs, [B] -> a scalar: w l / B, summed."""
        return (self.weight * losses).mean()


class LabelledPairs(Protocol):
    """A batch of pairs as `PairOptions` sees it: `Labels` and, float32 [B], how much better the chosen one is."""

    strength: Tensor | float
    chance: Tensor | float
    label: Tensor | float
    coin: Tensor | None
    flip_logit: Tensor | None

    def mean(self, losses: Tensor) -> Tensor: ...

    def reward_gap(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class PairOptions(Ranged):
    """Options that losses on pairs share, of images and of answers.

    beta: strength of the pull towards the reference.
    link: `sigmoid` (Bradley-Terry), `hinge` max(0, 1 - z), `ipo` (h - 1/(2 tau))^2 with h = z / beta, or of images
    `calibrated`, the squared distance of z from the gap of the win rates that the pairs carry (CaPO).
    label_smoothing: cDPO, the assumed share of flipped labels, 0 <= e < 0.5.
    flip_rate: rDPO, the loss that is unbiased under that share of flipped labels, 0 <= e < 0.5.
    forward_rate: the likelihood of the labels with that share of them flipped, which lets go of labels that the policy
    firmly contradicts, 0 <= e < 0.5; `learn` finds that share beside the policy.
    sft_weight: RPO, adds sft_weight times the loss of imitating the chosen one. margin: z is lowered by margin *
    strength.
    strength_beta, strength_beta_rate: w and k of MM-RLHF, z is multiplied by 1 + w (1 - e^(-k strength)), so that the
    beta of clear pairs is up to (1 + w) beta; w 0 is off. Reported margins are those with beta.
    soft_labels: tau, a label is right with probability s(strength / tau) (null: with the data's `chance` alone).
    dynamic_labels: g, a pair's label starts at 1 and moves to (1-g) label + g s(z) at each visit (0: it stays).
    margin_of: MODPO, weights of further rewards that the pairs carry, such as {relevance: 0.2}; z becomes (z - sum of
    weight * difference of the rewards) / (1 - sum of weights).
    value, value_weight: VPO, `pessimistic` raises the chosen one's likelihood over the reference's, with that weight,
    and `optimistic` lowers it, which explores in runs that make their own pairs and has no lower bound.
    """

    beta: Positive = 0.1
    link: Literal["sigmoid", "hinge", "ipo", "calibrated"] = "sigmoid"
    ipo_tau: Positive = 0.1
    label_smoothing: UnderHalf = 0.0
    flip_rate: UnderHalf = 0.0
    forward_rate: UnderHalf | Literal["learn"] = 0.0
    sft_weight: Weight = 0.0
    margin: Weight = 0.0
    strength_beta: Weight = 0.0
    strength_beta_rate: Positive = 0.5
    soft_labels: Positive | None = None
    dynamic_labels: Fraction = 0.0
    margin_of: dict[str, Weight] | None = None
    value: Literal["none", "pessimistic", "optimistic"] = "none"
    value_weight: Weight = 0.0

    def __post_init__(self):
        super().__post_init__()
        self.noise.check()
        if self.link != "sigmoid" and self.noise:
            raise ValueError(f"label_smoothing, flip_rate and forward_rate need link 'sigmoid', got link '{self.link}'")
        if self.link == "ipo" and (self.margin or self.margin_of):
            raise ValueError("margin and margin_of lower z, which link 'ipo' does not see; take link sigmoid or hinge")
        if self.link == "ipo" and self.strength_beta:
            raise ValueError("strength_beta scales z, which link 'ipo' does not see; take link sigmoid or hinge")
        if self.own_part < LEAST_PART:
            raise ValueError(f"margin_of leaves the preference a weight of 1 - {1 - self.own_part:g}, which must be at "
                             f"least {LEAST_PART:g}")
        if (self.value == "none") != (self.value_weight == 0):
            raise ValueError(f"value and value_weight go together, got value {self.value} and value_weight "
                             f"{self.value_weight:g}")

    @property
    def noise(self) -> LabelNoise:
        return LabelNoise(self.label_smoothing, self.flip_rate, self.forward_rate)

    @property
    def own_part(self) -> float:
        """w_k of MODPO, the weight of the preference beside those of the rewards."""
        return 1 - sum((self.margin_of or {}).values())

    def loss_of(self, z: Tensor, h: Tensor, pairs: LabelledPairs) -> Tensor:
        """The mean loss of a batch of pairs, before what is added to it; z and h [B]."""
        return pairs.mean(self._expected_loss(self._lowered(z, pairs), h, self.chance_of(pairs), pairs.flip_logit))

    def value_term(self, log_ratio: Tensor, pairs: LabelledPairs) -> Tensor | float:
        """VPO's -+ value_weight beta rho, averaged; log_ratio: rho [B] of the chosen ones, on which it is calibrated.

        Differs from the paper in: the calibration distribution is the chosen side of the batch.
        """
        if self.value == "none":
            return 0.0
        sign = -1 if self.value == "pessimistic" else 1
        return sign * self.value_weight * self.beta * pairs.mean(log_ratio)

    def chance_of(self, pairs: LabelledPairs) -> Tensor | float:
        """How probable it is that each label is right, [B], or one number for all."""
        chance = pairs.chance
        if self.soft_labels is not None:
            chance = right_after_both(chance, torch.sigmoid(torch.as_tensor(pairs.strength / self.soft_labels)))
        if self.dynamic_labels:
            chance = right_after_both(chance, pairs.label)
        return chance

    def _lowered(self, z: Tensor, pairs: LabelledPairs) -> Tensor:
        """What stands in the link, [B]."""
        if self.strength_beta:
            strength = torch.as_tensor(pairs.strength).clamp(min=0)
            z = z * (1 - self.strength_beta * torch.expm1(-self.strength_beta_rate * strength))
        z = z - self.margin * pairs.strength
        if not self.margin_of:
            return z
        return (z - sum(weight * pairs.reward_gap(name) for name, weight in self.margin_of.items())) / self.own_part

    def _expected_loss(self, z: Tensor, h: Tensor, chance: Tensor | float, flip_logit: Tensor | None) -> Tensor:
        """Mean of the loss over the label, which is right with probability `chance`, [B]."""
        return chance * self._link_loss(z, h, flip_logit) + (1 - chance) * self._link_loss(-z, -h, flip_logit)

    def _link_loss(self, z: Tensor, h: Tensor, flip_logit: Tensor | None) -> Tensor:
        if self.link == "hinge":
            return F.relu(1 - z)
        if self.link == "ipo":
            return (h - 1 / (2 * self.ipo_tau)).square()
        return self.noise.loss(-F.logsigmoid(z), -F.logsigmoid(-z), flip_logit)


class LabelTable:
    """The labels of `dynamic_labels` by the pairs' row numbers, float64; a pair that was not visited has label 1."""

    def __init__(self, rate: float):
        self.rate = rate
        self.labels: dict[int, float] = {}

    def of(self, rows: list[int]) -> Tensor:
        """[B] float32."""
        return torch.tensor([self.labels.get(row, 1.0) for row in rows], dtype=torch.float32)

    def visited(self, rows: list[int], z: Tensor) -> None:
        """label <- (1 - g) label + g s(z) for each visit, z [B]; called after the loss has used the labels."""
        for row, chance in zip(rows, z.detach().double().sigmoid().tolist(), strict=True):
            self.labels[row] = (1 - self.rate) * self.labels.get(row, 1.0) + self.rate * chance

    def state_dict(self) -> dict[str, Tensor]:
        return {"rows": torch.tensor(list(self.labels), dtype=torch.int64),
                "labels": torch.tensor(list(self.labels.values()), dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.labels = dict(zip(state["rows"].tolist(), state["labels"].tolist(), strict=True))
