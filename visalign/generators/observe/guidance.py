"""How a pipeline combines the network's predictions: found among a few rules by what is left over.

In every rule the house's scale means u + scale (c - u), c and u in the sign of the process; 1 is without guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

GUIDANCE_TOLERANCE, COARSE_TOLERANCE = 1e-4, 2e-2
"""Relative, for single precision, which leaves 1e-7, and for half precision, which leaves 3e-3."""


def _as_it_is(guided: Tensor, wanted: Tensor) -> Tensor:
    return guided


def _norm_of_last(guided: Tensor, wanted: Tensor) -> Tensor:
    return guided * (wanted.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True).clamp(min=1e-12))


def _norm_of_all(guided: Tensor, wanted: Tensor) -> Tensor:
    axes = [1] * (guided.ndim - 1)
    return guided * (wanted.flatten(1).norm(dim=1) / guided.flatten(1).norm(dim=1).clamp(min=1e-12)).view(-1, *axes)


RENORMALISATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": _as_it_is, "last axis": _norm_of_last, "whole sample": _norm_of_all}
"""Applied to the guided prediction in the scheduler's own layout, with the conditional one; by name."""


@dataclass(frozen=True)
class GuidanceRule:
    """u + scale (c - u), renormalised. option: by which the pipeline is told; its value is scale - shift, `off` off.

    embedded: the scale is an input of the network, and there is one prediction.
    """

    option: str
    shift: float = 0.0
    off: float = 1.0
    renormalise: str = "none"
    embedded: bool = False

    def given(self, scale: float) -> float:
        """The pipeline's value for a house scale."""
        return self.off if scale == 1 and not self.embedded else scale - self.shift


def fit_guidance(outputs: tuple[Tensor, Tensor], guided: Tensor, told: float) -> tuple[int, float, str, float]:
    """(place of the conditional output, the house's scale minus `told`, renormalisation, what is left over).

    outputs: the two predictions [B, ...] of one step in the scheduler's layout and in the process's sign; guided: what
    the scheduler was given, in that sign; told: the scale that the pipeline was given.
    """
    tries = []
    for place in (0, 1):
        wanted, unguided = outputs[place], outputs[1 - place]
        for shift in (0.0, 1.0):
            straight = unguided + (told + shift) * (wanted - unguided)
            for name, rule in RENORMALISATIONS.items():
                left = (rule(straight, wanted) - guided).norm() / guided.norm().clamp(min=1e-12)
                tries.append((float(left), place, shift, name))
    left, place, shift, name = min(tries, key=lambda each: each[0])
    return place, shift, name, left


def combine(unguided: Tensor, wanted: Tensor, scale: float, renormalise: str) -> Tensor:
    """The guided prediction; both [B, ...] in the scheduler's layout."""
    return RENORMALISATIONS[renormalise](unguided + scale * (wanted - unguided), wanted)
