"""A network's arguments as rows, one for each sample, and rows as arguments again.

Which axis holds the samples, and what all of them share, is seen from a call with one sample and one with that sample
twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from visalign.errors import UserError

ArgumentPath = tuple[str | int, ...]
Row = dict[str, Tensor]
"""One sample's part of the arguments, by name."""



def path_name(path: ArgumentPath) -> str:
    return ".".join(map(str, path))


def argument_leaves(value: Any, path: ArgumentPath = ()) -> Iterator[tuple[ArgumentPath, Any]]:
    """Tensors, lists of samples and other values of nested arguments, with their paths."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from argument_leaves(each, (*path, key))
    elif isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value):
        for number, each in enumerate(value):
            yield from argument_leaves(each, (*path, number))
    else:
        yield path, value


def replaced(value: Any, others: dict[ArgumentPath, Any], path: ArgumentPath = ()) -> Any:
    """The nested arguments with other values at some paths."""
    if path in others:
        return others[path]
    if isinstance(value, dict):
        return {key: replaced(each, others, (*path, key)) for key, each in value.items()}
    if isinstance(value, tuple) and any(isinstance(each, Tensor) for each in value):
        return tuple(replaced(each, others, (*path, number)) for number, each in enumerate(value))
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two arguments are equal, tensors inside them included."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape \
            and bool((one == other).all())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return one is other or bool(one == other)


@dataclass(frozen=True)
class SamplePlace:
    """Where the samples are in one argument.

    axis: of a tensor; None for a list with an entry for each sample. each: entries of that axis for one sample.
    """

    axis: int | None
    each: int = 1

    def split(self, value: Tensor | list, count: int) -> list[Any]:
        """Each of `count` samples' part: a tensor without the samples' axis (with it where `each` is more than 1)."""
        if isinstance(value, list):
            return [torch.as_tensor(part) if isinstance(part, int | float) else part for part in value]
        rows = value.movedim(self.axis or 0, 0)
        return list(rows) if self.each == 1 else list(rows.split(len(rows) // count))

    def join(self, rows: Tensor) -> Tensor | list:
        """The argument of rows [B, ...]."""
        if self.axis is None:
            return list(rows) if rows.ndim > 1 or rows.is_floating_point() else rows.tolist()
        return (rows if self.each == 1 else rows.flatten(0, 1)).movedim(0, self.axis)


@dataclass
class Layout:
    """How a network's arguments are made of rows.

    shared: the arguments of one recorded call with one sample, which has everything that does not depend on the sample.
    places: by the path of each argument that does. of_length: arguments that samples share where they are equally long.
    """

    shared: dict[str, Any]
    places: dict[ArgumentPath, SamplePlace] = field(default_factory=dict)
    of_length: frozenset[ArgumentPath] = frozenset()

    def __post_init__(self):
        self.known = dict(argument_leaves(self.shared))
        self.paths = {path_name(path): path for path in self.known}

    def rows(self, arguments: dict[str, Any], count: int, without: set[ArgumentPath]) -> list[Row]:
        """The parts of each of `count` samples, by name; shared arguments that differ from `shared` are in each.

        Raises UserError for an argument that differs between prompts and is no tensor or number.
        """
        found: list[Row] = [{} for _ in range(count)]
        for path, value in argument_leaves(arguments):
            if path in without or value is None:
                continue
            place = self.places.get(path)
            parts = [value] * count if place is None else place.split(value, count)
            if place is None and path not in self.of_length and same(value, self.known.get(path)):
                continue
            if not all(isinstance(part, Tensor | int | float) for part in parts):
                own = self.known.get(path)
                if place is not None and isinstance(own, list) and all(same(part, own[0]) for part in parts):
                    continue
                raise UserError(f"the argument {path_name(path)} differs from prompt to prompt and is neither a tensor "
                                "nor a number")
            for row, part in zip(found, parts, strict=True):
                row[path_name(path)] = torch.as_tensor(part)
        return found

    def joined(self, rows: Row, count: int, others: dict[ArgumentPath, Any]) -> dict[str, Any]:
        """Arguments of `count` rows, each tensor [B, ...]. others: arguments by path that are not in rows."""
        values: dict[ArgumentPath, Any] = {}
        for path, place in self.places.items():
            if path in others:
                continue
            own, name = self.known[path], path_name(path)
            if name in rows:
                values[path] = place.join(rows[name])
            else:
                values[path] = own * count if isinstance(own, list) else None
        for name in rows:
            path = self.paths.get(name)
            if path is not None and path not in self.places:
                first = rows[name][0]
                values[path] = first if isinstance(self.known[path], Tensor | None) else first.item()
        return replaced(self.shared, values | others)


def layout_of(one: dict[str, Any], two: dict[str, Any]) -> Layout:
    """From the arguments for a sample, and for that sample twice. Raises UserError naming what is not understood."""
    places: dict[ArgumentPath, SamplePlace] = {}
    doubled = dict(argument_leaves(two))
    for path, value in argument_leaves(one):
        if path not in doubled:
            raise UserError(f"the argument {path_name(path)} disappears when there are two prompts")
        place = _place(value, doubled[path], path)
        if place is not None:
            places[path] = place
    return Layout(one, places)


def _place(one: Any, two: Any, path: ArgumentPath) -> SamplePlace | None:
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        if one.shape == two.shape:
            return None
        axes = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b] \
            if one.ndim == two.ndim else []
        if len(axes) != 1 or two.shape[axes[0]] != 2 * one.shape[axes[0]]:
            raise UserError(f"the argument {path_name(path)} is {tuple(one.shape)} for a prompt and {tuple(two.shape)} "
                            "for two")
        return SamplePlace(axes[0], one.shape[axes[0]])
    if isinstance(one, list) and isinstance(two, list) and len(one) == 1 and len(two) == 2:
        return SamplePlace(None)
    if not same(one, two):
        raise UserError(f"the argument {path_name(path)} is another for two prompts than for one")
    return None


def assumed_layout(one: dict[str, Any]) -> Layout:
    """For a pipeline that takes one prompt at a time: tensors and lists of one entry are the sample's."""
    places = {path: SamplePlace(0 if isinstance(value, Tensor) else None) for path, value in argument_leaves(one)
              if (isinstance(value, Tensor) and value.ndim and value.shape[0] == 1) or
              (isinstance(value, list) and len(value) == 1)}
    return Layout(one, places)
