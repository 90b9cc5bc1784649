"""What happens to the gradients of an update before the optimiser steps: one pass over its samples, or several.

    plain      one pass with each sample's advantage
    balanced   the same with advantages mixed by the balance of the rewards; at a probe one pass a reward, and one for
               what no advantage enters; their gradients combined as balance.py says

To add one: a class with __call__, and its choice in `update_for`.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from visalign.objectives import Outcome
from visalign.objectives.advantages import Advantages
from visalign.objectives.balance import Balance
from visalign.objectives.group_figures import weighted
from visalign.objectives.mixing import RewardMixture
from visalign.parallel.engine import Engine


class Pass(Protocol):
    """One pass over an update's samples, whose gradients are added to those that are there."""

    def __call__(self, advantages: Tensor, part: Callable[[Outcome], Tensor] = ...,
                 shown: bool = True) -> bool:
        """advantages: of all samples of the epoch, [n] or [n, T]. part: of the loss, what is learnt from. shown:
        whether its metrics are logged. Whether the loss of this process's samples has a part that no advantage enters.
        """
        ...


class Update(Protocol):
    """Adds up the gradients of one optimiser step; gives what is logged."""

    def __call__(self, advantages: Advantages, learn: Pass) -> dict[str, float]: ...


class PlainUpdate:
    """One pass."""

    def __call__(self, advantages: Advantages, learn: Pass) -> dict[str, float]:
        learn(advantages.of_terms())
        return {}


class BalancedUpdate:
    """One pass with advantages mixed by `balance`, or a probe. names: of the rewards.

    All processes end a probe with the same weights: each has the sum of their gradients before these are compared.
    """

    def __init__(self, balance: Balance, names: tuple[str, ...], parameters: Sequence[nn.Parameter], engine: Engine):
        self.balance, self.names, self.parameters, self.engine = balance, names, parameters, engine

    def __call__(self, advantages: Advantages, learn: Pass) -> dict[str, float]:
        found = {}
        if self.balance.due:
            found = self._probe(advantages.by_reward.nan_to_num(0.0), learn)
        else:
            learn(weighted(advantages.by_reward, self.balance.weights))
        self.balance.updates += 1
        return self.balance.figures(self.names) | found

    def _probe(self, by_reward: Tensor, learn: Pass) -> dict[str, float]:
        self._reached: set[int] = set()
        gradients, has_part = [], False
        for column in by_reward.unbind(1):
            has_part = learn(column, without_apart)
            gradients.append(self._taken())
        held = torch.zeros_like(gradients[0])
        if self.engine.processes.most(int(has_part)):
            learn(torch.zeros_like(by_reward[:, 0]), apart_alone, shown=False)
            held = self._taken()
        gram = torch.stack([torch.stack([(a.double() * b.double()).sum() for b in gradients]) for a in gradients]).cpu()
        if not gram.isfinite().all():  # such a step is skipped, and says nothing of the weights
            self._put(sum(gradients) + held)
            return {}
        combined = self.balance.combined(gram)
        self.balance.learn(combined.weights)
        self._put(sum(factor * gradient for factor, gradient in zip(combined.factors.tolist(), gradients, strict=True))
                  + held)
        return {f"{what}/{name}": value for what, values in (
            ("balance_probe", combined.weights), ("gradient_norm", combined.norms),
            ("gradient_cosine", combined.cosines)) for name, value in zip(self.names, values.tolist(), strict=True)}

    def _taken(self) -> Tensor:
        """The gradients of all processes in one row, [P]; they are gone from the parameters."""
        self._reached |= {id(p) for p in self.parameters if p.grad is not None}
        self.engine.reduce(self.parameters)
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters])
        for parameter in self.parameters:
            parameter.grad = None
        return flat

    def _put(self, total: Tensor) -> None:
        """Give the parameters their gradients; the first process has them all, since the step adds those of all up."""
        parts = total.split([p.numel() for p in self.parameters])
        for parameter, part in zip(self.parameters, parts, strict=True):
            if id(parameter) in self._reached or part.any():
                own = part.view_as(parameter).to(parameter.dtype)
                parameter.grad = own if self.engine.processes.is_first else torch.zeros_like(own)


def update_for(mixture: RewardMixture, names: tuple[str, ...], parameters: Sequence[nn.Parameter],
               engine: Engine) -> Update:
    """What the weights of the rewards ask for."""
    if isinstance(mixture, Balance):
        return BalancedUpdate(mixture, names, parameters, engine)
    return PlainUpdate()


def whole_loss(outcome: Outcome) -> Tensor:
    return outcome.loss


def without_apart(outcome: Outcome) -> Tensor:
    return outcome.loss if outcome.apart is None else outcome.loss - outcome.apart


def apart_alone(outcome: Outcome) -> Tensor:
    return outcome.loss * 0 if outcome.apart is None else outcome.apart
