"""Tensors that stay on disk: what a conversion does to them is noted now, and done when their values are wanted.

Conversions between the names and layouts of model files split, join and transpose. Run on these stand-ins, they give
every shape before anything is read, and then one tensor at a time: memory holds the network that is being filled, and
nothing else. Where values come from is said only then, so that a header alone is enough for the shapes.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Read = Callable[[str], Tensor]
"""Gives a tensor of a file by its name."""

JOINED = 21504
"""Rows of the stand-in for a missing tensor: FLUX.1's conversion takes apart this many, the others any number."""


class LazyTensor:
    """What operations make of tensors of a file. meta: its shape. make: computes it from what a reader gives.
    sources: the names of those tensors."""

    def __init__(self, meta: Tensor, make: Callable[[Read], Tensor], sources: frozenset[str]):
        self.meta, self.make, self.sources = meta, make, sources

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return _noted(function, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.meta, name)
        if isinstance(value, Tensor):
            return _noted(getattr, (self, name), {})
        if callable(value):
            return lambda *args, **kwargs: _noted(getattr(Tensor, name), (self, *args), kwargs)
        return value

    def __getitem__(self, key: Any) -> Any:
        return _noted(Tensor.__getitem__, (self, key), {})


def _noted(function: Callable, args: tuple, kwargs: dict) -> Any:
    """The operation's result as lazy tensors, or as it is where it is none."""
    given: list[LazyTensor] = []

    def on_meta(value: Any) -> Any:
        if isinstance(value, LazyTensor):
            given.append(value)
            return value.meta
        return type(value)(map(on_meta, value)) if isinstance(value, list | tuple) else value

    def on_data(value: Any, read: Read) -> Any:
        if isinstance(value, LazyTensor):
            return value.make(read)
        return type(value)(on_data(each, read) for each in value) if isinstance(value, list | tuple) else value

    def made(read: Read) -> Any:
        return function(*on_data(args, read), **kwargs)

    result = function(*on_meta(args), **kwargs)
    sources = frozenset().union(*(each.sources for each in given))
    if isinstance(result, Tensor):
        return LazyTensor(result, made, sources)
    if isinstance(result, list | tuple) and all(isinstance(each, Tensor) for each in result):
        return tuple(LazyTensor(each, lambda read, at=at: made(read)[at], sources) for at, each in enumerate(result))
    return result


def lazy(name: str, shape: tuple[int, ...]) -> LazyTensor:
    """A tensor of a file."""
    return LazyTensor(torch.empty(shape, device="meta"), lambda read: read(name), frozenset([name]))


class Recorded(dict):
    """Tensors for a conversion that takes them by name: those it does not find are noted in `missing`."""

    def __init__(self, tensors: Mapping[str, LazyTensor]):
        super().__init__(tensors)
        self.missing: list[str] = []

    def pop(self, name: str, *default: Any) -> Any:
        return super().pop(name, *default) if name in self or default else self[name]

    def __missing__(self, name: str) -> LazyTensor:
        self.missing.append(name)
        return lazy(name, (JOINED,))
