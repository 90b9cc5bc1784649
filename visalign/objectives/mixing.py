"""How several rewards count beside each other: as the recipe weighs them, or by weights that a run finds.

Found weights multiply the advantages of each reward, standardised on its own: A_i = sum_k w_k A_k,i.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from visalign.objectives.balance import Balance
from visalign.validation.ranges import Few, Fraction, Ranged


class Mixture(Protocol):
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
    (the sum of advantages standardised again over the epoch). `marble` finds the weights of the advantages with which
    the gradients of all rewards agree best (balance.py); objectives that are affine in the advantage take it.
    every, decay, normalise: of marble. One update of `every` measures each reward's gradient apart; `decay` is the
    share of the weights that stays then; with normalise false long gradients rule.
    """

    combine: Literal["rewards", "advantages", "gdpo", "marble"] = "rewards"
    every: Few = 10
    decay: Fraction = 0.7
    normalise: bool = True

    taken_by: ClassVar[dict[str, tuple[str, ...]]] = {"every": ("marble",), "decay": ("marble",),
                                                      "normalise": ("marble",)}
    """Which ways to combine read a setting."""

    def __post_init__(self):
        super().__post_init__()
        for field in fields(self):
            takers = self.taken_by.get(field.name)
            if takers and self.combine not in takers and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} goes with combine {' or '.join(takers)} only, got combine "
                                 f"{self.combine}")

    @property
    def finds_weights(self) -> bool:
        """Whether a run finds the rewards' weights itself."""
        return self.combine == "marble"

    @property
    def probes(self) -> bool:
        """Whether updates measure the gradient of each reward."""
        return self.combine == "marble"

    def mixture_of(self, weights: Tensor) -> Mixture:
        """The weights that a run begins with, from those of the recipe [K]."""
        if self.probes:
            return Balance(len(weights), self.every, self.decay, self.normalise)
        return FixedWeights(weights.double())

