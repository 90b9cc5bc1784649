"""Samples' conditioning, one after another or in a batch, where prompts have different lengths.

A batch is named tensors, samples first. Of a tensor that is longer in some samples, the others are padded with zeros,
and `NAME#AXIS` [B] has the lengths along that axis of a sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.errors import UserError

LENGTH_MARK = "#"

Lengths = dict[str, tuple[int, list[int]]]
"""By the name of a tensor that is longer in some samples: the axis of a sample, and each one's length along it."""


@dataclass(frozen=True)
class Padding:
    """How prompts of different lengths pass through the network together.

    masks: arguments, None where all are equally long, that say which tokens [B, n] are no padding; each with the name
    of the tensor whose tokens they are.
    """

    masks: dict[tuple[str | int, ...], str]


def stack(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of samples' tensors [...]. Raises UserError where one has an input that another lacks."""
    names = rows[0].keys()
    if any(row.keys() != names for row in rows):
        raise UserError(f"these prompts cannot share a batch: one has the input {_odd(rows)}, another has not; use a "
                        "batch size of 1")
    batch: dict[str, Tensor] = {}
    for name in names:
        batch |= _padded(name, [row[name] for row in rows])
    return batch


def _odd(rows: Sequence[dict[str, Tensor]]) -> str:
    every = {name for row in rows for name in row}
    return next(name for name in sorted(every) if any(name not in row for row in rows))


def _padded(name: str, tensors: list[Tensor]) -> dict[str, Tensor]:
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) == 1:
        return {name: torch.stack(tensors)}
    longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    axes = [axis for axis, size in enumerate(longest) if any(shape[axis] != size for shape in shapes)]
    if len(axes) != 1:
        raise UserError(f"these prompts cannot share a batch: their input {name} differs in more than its length")
    padded = tensors[0].new_zeros(len(tensors), *longest)
    for row, tensor in zip(padded, tensors, strict=True):
        row.narrow(axes[0], 0, tensor.shape[axes[0]]).copy_(tensor)
    lengths = torch.tensor([tensor.shape[axes[0]] for tensor in tensors], device=padded.device)
    return {name: padded, f"{name}{LENGTH_MARK}{axes[0]}": lengths}


def lengths_of(batch: dict[str, Tensor]) -> Lengths:
    return {name.split(LENGTH_MARK)[0]: (int(name.split(LENGTH_MARK)[1]), values.tolist())
            for name, values in batch.items() if LENGTH_MARK in name}


def unstack(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The samples of a batch without padding."""
    lengths, rows = lengths_of(batch), []
    for number in range(len(next(iter(batch.values())))):
        row = {}
        for name, values in batch.items():
            if LENGTH_MARK in name:
                continue
            axis, own = lengths.get(name, (0, None))
            row[name] = values[number] if own is None else values[number].narrow(axis, 0, own[number])
        rows.append(row)
    return rows


def trimmed(batch: dict[str, Tensor], lengths: Lengths) -> dict[str, Tensor]:
    """The batch no longer than its longest sample, without the lengths."""
    return {name: values.narrow(lengths[name][0] + 1, 0, max(lengths[name][1])) if name in lengths else values
            for name, values in batch.items() if LENGTH_MARK not in name}


def join(batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several batches as one."""
    first = batches[0]
    if all(batch.keys() == first.keys() and all(batch[name].shape[1:] == first[name].shape[1:] for name in first)
           for batch in batches):
        return {name: torch.cat([batch[name] for batch in batches]) for name in first}
    return stack([row for batch in batches for row in unstack(batch)])


def share_inputs(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two batches have the same inputs, of whatever lengths."""
    return {name.split(LENGTH_MARK)[0] for name in one} == {name.split(LENGTH_MARK)[0] for name in other}


def is_ragged(batch: dict[str, Tensor]) -> bool:
    return any(LENGTH_MARK in name for name in batch)


def equally_long(batch: dict[str, Tensor]) -> list[Tensor]:
    """Numbers of the samples that have equal lengths in everything, group by group."""
    lengths = torch.stack([values for name, values in sorted(batch.items()) if LENGTH_MARK in name], 1).cpu()
    _, group = lengths.unique(dim=0, return_inverse=True)
    return [(group == number).nonzero().flatten() for number in range(int(group.max()) + 1)]


def by_length(batch: dict[str, Tensor]) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The batch in parts of equally long samples: their numbers, and each part without padding."""
    rows = unstack(batch)
    return [(places, stack([rows[place] for place in places.tolist()])) for places in equally_long(batch)]
