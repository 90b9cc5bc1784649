"""How several rewards count beside each other: as the recipe weighs them, or by weights that a run finds.

Found weights multiply the advantages of each reward, standardised on its own: A_i = sum_k w_k A_k,i.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from visalign.objectives.balance import Balance
from visalign.objectives.constrained import Multipliers
from visalign.objectives.worst_group import WorstGroup
from visalign.validation.ranges import Few, Fraction, Positive, Ranged, RewardValue


class RewardMixture(Protocol):
    """weights float64 [K]. One that changes with the run has a state_dict."""

    weights: Tensor

    def see(self, rewards: Tensor) -> None:
        """Learn from an epoch's rewards [n, K], NaN where there is none, before its advantages are taken."""
        ...

    def figures(self, names: tuple[str, ...]) -> dict[str, float]:
        """What is logged of the weights."""
        ...


class FixedWeights:
    """Those of the recipe."""

    def __init__(self, weights: Tensor):
        self.weights = weights

    def see(self, rewards: Tensor) -> None:
        """Nothing changes them."""

    def figures(self, names: tuple[str, ...]) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class MixingSettings(Ranged):
    """combine: several rewards by weighted sum of `rewards`, of `advantages` (each standardised on its own), or `gdpo`
    (the sum of advantages standardised again over the epoch). With the others a run finds the weights of the
    advantages: `marble` those with which the gradients of all rewards agree best (balance.py), for objectives that are
    affine in the advantage; `constrained` multipliers that hold rewards at `thresholds` (constrained.py); `worst` more
    for the reward that has gained least (worst_group.py).
    every, decay, normalise: of marble. One update of `every` measures each reward's gradient apart; `decay` is the
    share of the weights that stays then; with normalise false long gradients rule.
    thresholds: of constrained, {reward: mean to hold it at}, larger is better; the other rewards keep their weights.
    squash: `tanh` holds at a threshold from both sides, `sigmoid` and `none` keep at least it. momentum: of the
    multipliers. rate: of multipliers a unit of the reward and epoch, or of worst a standard deviation and epoch.
    """

    combine: Literal["rewards", "advantages", "gdpo", "marble", "constrained", "worst"] = "rewards"
    every: Few = 10
    decay: Fraction = 0.7
    normalise: bool = True
    thresholds: dict[str, RewardValue] | None = None
    squash: Literal["tanh", "sigmoid", "none"] = "tanh"
    rate: Positive = 0.1
    momentum: Fraction = 0.1

    taken_by: ClassVar[dict[str, tuple[str, ...]]] = {
        "every": ("marble",), "decay": ("marble",), "normalise": ("marble",), "thresholds": ("constrained",),
        "squash": ("constrained",), "momentum": ("constrained",), "rate": ("constrained", "worst")}
    """Which ways to combine read a setting."""

    def __post_init__(self):
        super().__post_init__()
        for field in fields(self):
            takers = self.taken_by.get(field.name)
            if takers and self.combine not in takers and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} goes with combine {' or '.join(takers)} only, got combine "
                                 f"{self.combine}")
        if self.combine == "constrained" and not self.thresholds:
            raise ValueError("combine constrained needs thresholds, a mapping {reward: the mean to hold it at}")

    @property
    def finds_weights(self) -> bool:
        """Whether a run finds weights of rewards itself."""
        return self.combine in ("marble", "constrained", "worst")

    @property
    def probes(self) -> bool:
        """Whether updates measure the gradient of each reward."""
        return self.combine == "marble"

    def found_of(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """The rewards whose weights a run finds."""
        return tuple(self.thresholds or {}) if self.combine == "constrained" else names * self.finds_weights

    def mixture_of(self, names: tuple[str, ...], weights: Tensor) -> RewardMixture:
        """The weights that a run begins with, from those of the recipe [K]."""
        if self.combine == "marble":
            return Balance(len(names), self.every, self.decay, self.normalise)
        if self.combine == "constrained":
            return Multipliers(names, weights, self.thresholds, self.squash, self.rate, self.momentum)
        return WorstGroup(len(names), self.rate) if self.combine == "worst" else FixedWeights(weights.double())
