"""Tensors without memory that know their values where networks may look at them.

Masks, lengths, positions and whatever else is of whole numbers or truth values is computed beside the pass on fake
tensors, from the pass's own arguments; so are small numbers that depend on nothing else. What depends on weights is
taken for zero: a router of experts sends every token to the first ones, which takes as much memory as any other
choice.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

WHOLE, SMALL = 2**24, 2**16
"""Numbers in a tensor of whole numbers, and of others, whose values are computed."""


def knowing(mode: FakeTensorMode, value: Tensor, device: torch.device, dtype: torch.dtype) -> FakeTensor:
    """A tensor without memory on `device` that knows its values, which are a real tensor's."""
    fake = FakeTensor(mode, torch.empty(value.shape, dtype=dtype, device="meta"), device)
    with _disable_current_modes():
        fake.known = value.detach().to(dtype).contiguous()
    return fake


def values_of(tensor: Tensor) -> Tensor | None:
    """A tensor's values, None where they are not known."""
    if isinstance(tensor, FakeTensor) or tensor.is_meta:
        return getattr(tensor, "known", None)
    return tensor.detach()


@contextlib.contextmanager
def known_values(mode: FakeTensorMode) -> Iterator[None]:
    """Within it and within `mode`, tensors of whole numbers know their values."""
    with _Known(mode), _Arrays():
        yield


class _Arrays(TorchFunctionMode):
    """numpy arrays and lists of tensors without memory hold what these know; so do tensors made of lists of them."""

    read = (Tensor.numpy, Tensor.tolist)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in self.read and isinstance(args[0], FakeTensor):
            with _disable_current_modes():
                return func(_or_zeros(args[0]))
        if func is torch.tensor and any(isinstance(leaf, FakeTensor) for leaf in pytree.tree_leaves(args)):
            with _disable_current_modes():
                args = pytree.tree_map(lambda leaf: _or_zeros(leaf).tolist() if isinstance(leaf, FakeTensor) else leaf,
                                       args)
        return func(*args, **(kwargs or {}))


class _Known(TorchDispatchMode):
    def __init__(self, mode: FakeTensorMode):
        super().__init__()
        self.mode = mode

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        try:
            result = func(*args, **kwargs)
        except (DynamicOutputShapeException, DataDependentOutputException):
            if func is torch.ops.aten.index.Tensor:
                return func(args[0], self._counted(args[1]))
            device = next(each.device for each in given)
            return pytree.tree_map(lambda leaf: knowing(self.mode, leaf, device, leaf.dtype)
                                   if isinstance(leaf, Tensor) else leaf, _really(func, args, kwargs))
        made = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, FakeTensor)]
        part = _is_part_of_known(func, given)
        if any(part or _worth_knowing(each, given) for each in made) and _may_write(func, args, kwargs):
            for fake, value in zip(made, _values(func, args, kwargs, made), strict=True):
                if part or _worth_knowing(fake, given):
                    fake.known = value
        return result

    def _counted(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Indices with masks replaced by the places that they leave, so that what is indexed needs no values."""
        found: list[Tensor | None] = []
        for each in indices:
            if each is None or each.dtype not in (torch.bool, torch.uint8):
                found.append(each)
                continue
            with _disable_current_modes():
                places = _or_zeros(each).nonzero().unbind(1)
            found += [knowing(self.mode, place, each.device, place.dtype) for place in places]
        return found


def _values(func: Callable, args: tuple, kwargs: dict, made: list[FakeTensor]) -> list[Tensor]:
    """What an operation gives in truth: zeros for numbers that are drawn, and what is in memory by chance."""
    if torch.Tag.nondeterministic_seeded in func.tags:
        with _disable_current_modes():
            return [torch.zeros(each.shape, dtype=each.dtype) for each in made]
    return [leaf for leaf in pytree.tree_leaves(_really(func, args, kwargs)) if isinstance(leaf, Tensor)]


def _worth_knowing(made: FakeTensor, given: list[Tensor]) -> bool:
    if not (made.is_floating_point() or made.is_complex()):
        return all(each.numel() <= WHOLE for each in (made, *given))
    return made.numel() <= SMALL and all(values_of(each) is not None for each in given)


def _is_part_of_known(func: Callable, given: list[Tensor]) -> bool:
    """Whether the result lies in the memory of a tensor whose values are known, so that they cost nothing more."""
    return getattr(func, "is_view", False) and bool(given) and values_of(given[0]) is not None


def _may_write(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether what an operation changes in place is known before."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return True
    changed = [args[place] if place < len(args) else kwargs.get(each.name)
               for place, each in enumerate(schema.arguments) if each.alias_info and each.alias_info.is_write]
    return all(values_of(each) is not None for each in changed if isinstance(each, Tensor))


def _really(func: Callable, args: tuple, kwargs: dict) -> Any:
    """What an operation gives for values, on the CPU."""
    def real(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return _or_zeros(leaf)
        return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

    with _disable_current_modes():
        return func(*pytree.tree_map(real, args), **pytree.tree_map(real, kwargs))


def _or_zeros(tensor: Tensor) -> Tensor:
    """A tensor's values, zeros in hardly any memory where they are not known."""
    found = values_of(tensor)
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) if found is None else found
