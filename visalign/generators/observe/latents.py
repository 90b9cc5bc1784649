"""Where latents go: into the network's arguments, out of its prediction, and on to the VAE.

Numbers that name their own position are sent through the pipeline, a few digits at a time, since half precision holds
only integers up to 256; what arrives says which element went where, with which scale and offset.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 16
"""Of the digits: so few that a scale in bfloat16, good to 1 in 250, still leaves the digit plain."""
ONE = 64.0
"""The value of the probe that measures scales: as large as exact arithmetic allows, for their accuracy."""


def probes(count: int) -> list[Tensor]:
    """Vectors [count]: zeros, ONE, and the digits of 0..count-1, least first."""
    places, number = [], torch.arange(count)
    while len(places) == 0 or BASE ** len(places) < count:
        places.append((number // BASE ** len(places) % BASE).float())
    return [torch.zeros(count), torch.full((count,), ONE), *places]


@dataclass(frozen=True)
class Reading:
    """What became of probes: element i is offset[i] + scale[i] times element index[i], or constant where index is -1.

    All are flat, [number of elements that arrived].
    """

    index: Tensor
    scale: Tensor
    offset: Tensor


def read_probes(seen: Sequence[Tensor], factors: Sequence[float] | None = None) -> Reading | None:
    """From what arrived for each of `probes`; None where that is no selection of them, element by element.

    factors: by which the pipeline scales each probe, where it scales them differently.
    """
    factors = factors or [1.0] * len(seen)
    flat = [each.detach().double().flatten() for each in seen]
    offset = flat[0]
    scale = (flat[1] - offset) / (ONE * factors[1])
    depends = scale.abs() > 1e-6
    index = torch.zeros(len(offset), dtype=torch.long)
    for place, (each, factor) in enumerate(zip(flat[2:], factors[2:], strict=True)):
        digit = (each - offset) / (torch.where(depends, scale, 1.0) * factor)
        whole = digit.round()
        if bool(((digit - whole).abs() > 0.2)[depends].any()):
            return None
        index += whole.long() * BASE**place
    return Reading(torch.where(depends, index, -1), torch.where(depends, scale, 0.0), offset)


@dataclass(frozen=True)
class AxisOrder:
    """The elements of a sample from `start` on, as axes of these sizes in another order: what takes no gather.

    axes: the numbers of the axes in their new order, outermost first.
    """

    start: int
    sizes: tuple[int, ...]
    axes: tuple[int, ...]

    def __call__(self, flat: Tensor) -> Tensor:
        """[B, elements] to [B, elements that are picked]."""
        grid = flat.narrow(1, self.start, math.prod(self.sizes)).unflatten(1, self.sizes)
        return grid.permute(0, *(axis + 1 for axis in self.axes)).flatten(1)


def axis_order(index: Tensor) -> AxisOrder | None:
    """The order of axes that picks the elements `index`; None where there is none."""
    start = int(index.min())
    rest, strides = index - start, []
    while len(rest) > 1:
        stride = int(rest[1] - rest[0])
        differs = (rest != rest[0] + stride * torch.arange(len(rest))).nonzero()
        size = int(differs[0]) if len(differs) else len(rest)
        if len(rest) % size or bool((rest.view(-1, size) != rest[::size, None] + stride * torch.arange(size)).any()):
            return None
        strides.append((stride, size))
        rest = rest[::size]
    inner = 1
    for stride, size in sorted(strides):
        if stride != inner:
            return None
        inner *= size
    by_stride = sorted(strides, reverse=True)
    return AxisOrder(start, tuple(size for _, size in by_stride),
                     tuple(by_stride.index(each) for each in reversed(strides)))


@dataclass(frozen=True)
class Selection:
    """Picks elements of a sample: [B, ...] to [B, *shape], by `index` [elements], None for a change of shape only.

    order: in place of the index where the elements are axes in another order. last: entries of the first axis, at its
    end, from which is picked; None for all.
    sign: what the elements are multiplied by. fixed: for elements that do not come from the sample, where there are
    any: which ones, bool [elements]; their values belong to each sample's conditioning.
    """

    shape: tuple[int, ...]
    index: Tensor | None
    sign: float = 1.0
    fixed: Tensor | None = None
    order: AxisOrder | None = None
    last: int | None = None

    def cut(self, samples: Tensor) -> Tensor:
        """What of samples [B, ...] is picked from, which is as long for all prompts."""
        return samples if self.last is None else samples[:, -self.last:]

    def __call__(self, samples: Tensor, values: Tensor | None = None) -> Tensor:
        """values: [B, *shape], of which the fixed elements are taken."""
        flat = self.cut(samples).flatten(1)
        if self.order is not None:
            flat = self.order(flat)
        if self.index is not None:
            flat = flat.index_select(1, self.index)
        if self.sign != 1:
            flat = flat * self.sign
        if self.fixed is not None:
            assert values is not None
            flat = torch.where(self.fixed, values.flatten(1).to(flat), flat)
        return flat.view(len(samples), *self.shape)


def selection(shape: tuple[int, ...], index: Tensor, source: tuple[int, ...], device: torch.device,
              sign: float = 1.0) -> Selection:
    """As simple as it can be. index: -1 for fixed elements. source: shape of the sample selected from."""
    each, last = math.prod(source[1:]), None
    before = max(0, int(index.min())) // each
    if before and len(index) == (source[0] - before) * each:  # words come before the latents
        index, last = index - before * each, source[0] - before
    if torch.equal(index, torch.arange((last or source[0]) * each)):
        return Selection(tuple(shape), None, sign, last=last)
    order = axis_order(index)
    if order is not None and order.start >= 0:
        return Selection(tuple(shape), None, sign, order=order, last=last)
    fixed = index < 0
    return Selection(tuple(shape), index.clamp(min=0).to(device), sign, fixed.to(device) if fixed.any() else None,
                     last=last)


def by_axis(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Values of one sample's elements [elements] as [1, *shape], with axes along which they are all equal shortened."""
    grid = values.view(1, *shape)
    for axis in range(1, grid.ndim):
        first = grid.narrow(axis, 0, 1)
        if torch.allclose(grid, first.expand_as(grid), rtol=1e-6, atol=1e-9):
            grid = grid.mean(axis, keepdim=True)
    return grid.float()
