"""One process, or several that each hold the whole network: DDP where gradients are averaged during backward, and one
sum of them by hand where processes pass unequal numbers of samples.

Trainers ask an engine for everything that depends on how many processes there are. `sharded.py` has the same interface
for processes that hold parts of everything, `zero.py` for those that hold parts of gradients and optimiser state.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from visalign.parallel.sharing import Processes
from visalign.parallel.watch import met

_T = TypeVar("_T")
FIRST_VALUES = 100_000
STOP = 60.0
"""Seconds in which all processes must have heard a signal, for a checkpoint to be written in between."""


class Engine:
    """Every process holds the whole network and its optimiser's state.

    sharded: whether each holds a part of the weights. together: whether a backward pass of one waits for the others'.
    """

    sharded: ClassVar[bool] = False
    together: ClassVar[bool] = False

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.processes = Processes(accelerator.process_index, accelerator.num_processes)
        self._summed = False

    def send_home(self, network: nn.Module) -> None:
        """Where each process will hold a part, the whole waits in host memory while it is prepared for training."""

    def shard(self, network: nn.Module) -> None:
        """Divide a network's tensors among the processes, where this engine does; before anything else holds them."""

    def divided(self, optimizer: torch.optim.Optimizer) -> Any:
        """An optimiser of which each process holds a part, where this engine divides it; as it is elsewhere."""
        return optimizer

    def reached(self, parameter: nn.Parameter) -> bool:
        """Whether the backward pass gave this parameter a gradient."""
        return parameter.grad is not None

    def prepare(self, network: nn.Module, optimizer: torch.optim.Optimizer, summed: bool = False) -> tuple[Any, Any]:
        """What is called in the network's place, and the optimiser to step.

        summed: the losses of all processes add up, instead of counting in the mean; a process may then have none.
        """
        self._summed = summed
        if summed:
            return network, self.accelerator.prepare(optimizer)
        return self.accelerator.prepare(network, optimizer)

    def accumulation(self, policy: Any, last: bool) -> contextlib.AbstractContextManager:
        """A context for a forward and a backward pass; gradients are shared after the `last` pass of a step."""
        return contextlib.nullcontext() if last or self._summed else self.accelerator.no_sync(policy)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of this step."""
        self.accelerator.backward(loss)

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Where losses add up, every process ends with the sum of all processes' gradients."""
        if not self._summed or self.processes.world == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = self.accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "sum")
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))

    def clip(self, parameters: Sequence[nn.Parameter], largest: float) -> Tensor:
        """Scale all gradients together to a norm of at most `largest`; what their norm was, equal in every process."""
        return self.accelerator.clip_grad_norm_(parameters, largest)

    def in_step(self, parts: list[_T], spare: Callable[[], _T]) -> Iterator[tuple[_T, bool]]:
        """This process's parts of a step, and whether each counts: where passes are shared, one with fewer parts gets
        `spare` ones that do not."""
        return ((part, True) for part in parts)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """A context in which passes without gradients need no other process, so that their numbers may differ.

        No weight may change in it.
        """
        yield

    def first_values(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """At most the first 100,000 values of each tensor, of this process's part."""
        return torch.cat([p.detach().flatten()[:FIRST_VALUES] for p in parameters])

    def norm(self, values: Tensor) -> Tensor:
        """Of `first_values` of all processes."""
        return values.norm()

    def on_all(self) -> bool:
        """Whether this process takes part in writing a checkpoint: all do where each holds a part, else the first."""
        return self.together or self.processes.is_first

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """What a tensor that was written in parts is read into."""
        return torch.zeros(shape, dtype=dtype)

    def all_stop(self) -> bool:
        """Whether all processes that must write a checkpoint together have come to it, after a signal."""
        return True

    def whole_on_first(self, *networks: nn.Module) -> None:
        """Give the first process whole networks again, for good, and take them from the others; at a run's end."""


class TogetherEngine(Engine):
    """Gradients are shared during backward, so that all processes make as many passes."""

    together: ClassVar[bool] = True

    def backward(self, loss: Tensor) -> None:
        """The mean over the processes is taken then."""
        super().backward(loss * self.processes.world if self._summed else loss)

    def reduce(self, parameters: Sequence[nn.Parameter]) -> None:
        """Done during backward."""

    def in_step(self, parts: list[_T], spare: Callable[[], _T]) -> Iterator[tuple[_T, bool]]:
        missing = self.processes.most(len(parts)) - len(parts)
        yield from ((part, True) for part in parts)
        yield from ((spare(), False) for _ in range(missing))

    def all_stop(self) -> bool:
        return met("stop", STOP)
