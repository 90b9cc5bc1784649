"""How gradients become a step: held until all are there, and clipped together, or each used up as soon as it is."""

import torch
from torch import Tensor, nn

from visalign.config import OptimSettings
from visalign.parallel.engine import Engine


class HeldGradients:
    """Every gradient is held until the step; `norm` clips them together and gives what their norm was."""

    def __init__(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, engine: Engine,
                 largest: float):
        self.parameters, self.engine, self.largest = parameters, engine, largest

    def reached(self, parameter: nn.Parameter) -> bool:
        """Whether the backward pass gave this parameter a gradient."""
        return self.engine.reached(parameter)

    def norm(self) -> Tensor:
        return self.engine.clip(self.parameters, self.largest)


class FusedGradients(HeldGradients):
    """A parameter steps and drops its gradient as soon as the backward pass has it, so that they are never all held.

    One backward pass is one step, of one process, and nothing clips the gradients together.
    """

    def __init__(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, engine: Engine,
                 largest: float):
        super().__init__(parameters, optimizer, engine, largest)
        self.optimizer, self._seen, self._squares = optimizer, set(), []
        self._group_of = {id(p): place for place, group in enumerate(optimizer.param_groups) for p in group["params"]}
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._step)

    @torch.no_grad()
    def _step(self, parameter: nn.Parameter) -> None:
        self._seen.add(id(parameter))
        self._squares.append(parameter.grad.float().square().sum())
        groups = self.optimizer.param_groups
        self.optimizer.param_groups = [groups[self._group_of[id(parameter)]] | {"params": [parameter]}]
        try:
            self.optimizer.step()
        finally:
            self.optimizer.param_groups = groups
        parameter.grad = None

    def reached(self, parameter: nn.Parameter) -> bool:
        return id(parameter) in self._seen

    def norm(self) -> Tensor:
        """Of the gradients that were used up."""
        squares, self._squares = self._squares, []
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def gradients_for(settings: OptimSettings, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer,
                  engine: Engine) -> HeldGradients:
    """As `optim.fused_backward` asks."""
    kind = FusedGradients if settings.fused_backward else HeldGradients
    return kind(parameters, optimizer, engine, settings.largest_norm)
