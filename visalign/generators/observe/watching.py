"""Running a pipeline while its networks, its scheduler and its VAE are seen, and replaced where that is asked for.

A replaced network answers at once, so that all but the first short call cost no network pass.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from visalign.generators.schedulers import rises


class EnoughSeen(Exception):
    """What was to be seen has been seen."""


@dataclass
class NetworkCall:
    """One call of a network: its arguments by name, and its whole output."""

    network: str
    arguments: dict[str, Any]
    output: Any = None

    def rows(self) -> int:
        """Samples in this call, by its first argument."""
        first = next(iter(self.arguments.values()))
        return len(first)


@dataclass
class SchedulerStep:
    """One step of the scheduler, and the network calls that led to it.

    model_output: as it would lead a flow towards noise. sigma, next_sigma: None where it has none.
    """

    calls: list[NetworkCall]
    model_output: Tensor
    timestep: Tensor | float
    sample: Tensor
    sigma: float | None = None
    next_sigma: float | None = None
    after: Tensor | None = None


@dataclass
class Record:
    """What was seen: steps of the pipeline's own scheduler in order, the samples that copies of the scheduler stepped,
    and what the VAE was given to decode."""

    steps: list[SchedulerStep] = field(default_factory=list)
    beside: list[Tensor] = field(default_factory=list)
    decoded: list[tuple[Tensor, tuple, dict]] = field(default_factory=list)


NetworkAnswer = Callable[[NetworkCall], Any]
"""A network's output for a call, in place of the network's own."""
Replace = Callable[[SchedulerStep, int], Tensor | None]
"""Called after each step with its number; latents to go on with, None for the scheduler's own."""


def primary(output: Any) -> Tensor | list[Tensor]:
    """The prediction in a network's output: a tensor, or a list with a tensor for each sample."""
    if hasattr(output, "sample"):
        return output.sample
    return output[0] if isinstance(output, tuple) else output


def answered(template: Any, ratio: int, content: Callable[[tuple[int, ...]], Tensor]) -> Any:
    """An output like `template`, for `ratio` times as many samples; every tensor is `content` of its shape."""
    if isinstance(template, Tensor):
        shape = (template.shape[0] * ratio, *template.shape[1:])
        return content(shape).to(template) if template.is_floating_point() else template.repeat_interleave(ratio, 0)
    if isinstance(template, list):
        return [content(each.shape).to(each) for _ in range(ratio) for each in template]
    if isinstance(template, tuple):
        return tuple(answered(each, ratio, content) for each in template)
    if isinstance(template, dict):
        return type(template)(**{key: answered(each, ratio, content) for key, each in template.items()})
    return template


def kept(tree: Any) -> Any:
    """A copy that later changes of the pipeline do not reach."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)


@contextlib.contextmanager
def watching(pipeline, networks: dict[str, nn.Module], *, answer: NetworkAnswer | None = None,
             replace: Replace | None = None, stop_at: int | None = None, decode: bool = False) -> Iterator[Record]:
    """Within it the pipeline is seen; `EnoughSeen` raised inside ends it quietly.

    stop_at: number of steps after which the call is stopped. decode: stop at the VAE rather than run it.
    """
    record = Record()
    with contextlib.ExitStack() as stack:
        pending: list[NetworkCall] = []
        for name, module in networks.items():
            stack.enter_context(_network_seen(name, module, pending, answer))
        seen = _recorded(pipeline.scheduler, record, pending, replace, stop_at)

        def beside(own: Callable, arguments: tuple, named: dict):
            record.beside.append(kept(named["sample"] if "sample" in named else arguments[2]))
            return own(*arguments, **named)

        stack.enter_context(scheduler_replaced(pipeline.scheduler, seen, beside))
        if decode:
            stack.enter_context(_decoding_seen(pipeline.vae, record))
        stack.enter_context(torch.no_grad())
        stack.enter_context(contextlib.suppress(EnoughSeen))
        yield record


@contextlib.contextmanager
def _network_seen(name: str, module: nn.Module, pending: list[NetworkCall],
                  answer: NetworkAnswer | None) -> Iterator[None]:
    original, own = module.forward, module.__dict__.get("forward")
    signature = inspect.signature(type(module).forward)

    def forward(*arguments, **named):
        bound = dict(signature.bind(module, *arguments, **named).arguments)
        bound.pop("self")
        call = NetworkCall(name, kept(bound))
        pending.append(call)
        output = original(*arguments, **named) if answer is None else answer(call)
        call.output = kept(output)
        return output

    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextlib.contextmanager
def scheduler_replaced(scheduler, seen: Callable[[Callable, tuple, dict], Any],
                       beside: Callable[[Callable, tuple, dict], Any] | None = None) -> Iterator[None]:
    """Within it each step of this scheduler is `seen(its own step, arguments, named)`.

    Its class is exchanged for a subclass, so that a pipeline may copy it. beside: the same for steps of copies.
    """
    kind, watched = type(scheduler), id(scheduler)

    class Seen(kind):
        @functools.wraps(kind.step)  # one may be within another, and looks at the signature
        def step(self, *arguments, **named):
            own = super().step
            if id(self) == watched:
                return seen(own, arguments, named)
            return own(*arguments, **named) if beside is None else beside(own, arguments, named)

    Seen.__name__, Seen.__qualname__, Seen.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    scheduler.__class__ = Seen
    try:
        yield
    finally:
        scheduler.__class__ = kind


def _recorded(scheduler, record: Record, pending: list[NetworkCall], replace: Replace | None,
              stop_at: int | None) -> Callable[[Callable, tuple, dict], Any]:
    signature = inspect.signature(type(scheduler).step)

    def seen(own: Callable, arguments: tuple, named: dict):
        bound = signature.bind(scheduler, *arguments, **named).arguments
        model_output, timestep, sample = (bound[name] for name in ("model_output", "timestep", "sample"))
        index = _index(scheduler, timestep)
        sigmas = [None, None]
        if index is not None and hasattr(scheduler, "sigmas"):
            sigmas = noise_levels(scheduler)[index:index + 2].tolist()
        towards_noise = -model_output if rises(scheduler) else model_output
        step = SchedulerStep(pending[:], kept(towards_noise), kept(timestep), kept(sample), *sigmas)
        pending.clear()
        output = own(*arguments, **named)
        tupled = isinstance(output, tuple)
        step.after = kept(output[0] if tupled else output.prev_sample)
        record.steps.append(step)
        other = replace(step, len(record.steps) - 1) if replace else None
        if stop_at is not None and len(record.steps) >= stop_at:
            raise EnoughSeen
        if other is None:
            return output
        if tupled:
            return (other, *output[1:])
        output.prev_sample = other
        return output

    return seen


def noise_levels(scheduler) -> Tensor:
    """Of its times, float32 on the CPU: 1 is pure noise, whichever way it counts."""
    sigmas = scheduler.sigmas.to(torch.float32).cpu()
    return 1 - sigmas if rises(scheduler) else sigmas.clone()


def _index(scheduler, timestep) -> int | None:
    if getattr(scheduler, "step_index", None) is not None:
        return scheduler.step_index
    if not hasattr(scheduler, "index_for_timestep"):
        return None
    return int(scheduler.index_for_timestep(timestep))


@contextlib.contextmanager
def _decoding_seen(vae: nn.Module, record: Record) -> Iterator[None]:
    own = vae.__dict__.get("decode")

    def decode(latents: Tensor, *arguments, **named):
        record.decoded.append((kept(latents), arguments, named))
        raise EnoughSeen

    vae.decode = decode
    try:
        yield
    finally:
        if own is None:
            del vae.decode
        else:
            vae.decode = own
