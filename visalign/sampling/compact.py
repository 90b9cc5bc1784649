"""Encodings as they are stored: in bf16 where that is asked for, and without the zeros that a prompt is padded with."""

import torch
from torch import Tensor

_CHANGED, _ROWS = "|", "x"


def compact(entry: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors under names that say how `restored` brings them back.

    dtype: what numbers of more digits are rounded to, None for none. Whole numbers, such as sizes, stay exact.
    """
    found = {}
    for name, tensor in entry.items():
        rounded = tensor if dtype is None else _rounded(tensor, dtype)
        kept = _without_last_zeros(rounded)
        how = str(tensor.dtype).removeprefix("torch.") if rounded.dtype != tensor.dtype else ""
        rows = str(len(tensor)) if kept is not rounded else ""
        found[f"{name}{_CHANGED}{how}{_ROWS}{rows}" if how or rows else name] = kept
    return found


def restored(entry: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `compact` was given, as exactly as it was stored."""
    found = {}
    for told, tensor in entry.items():
        name, changed, how = told.rpartition(_CHANGED)
        if not changed:
            found[told] = tensor
            continue
        dtype, _, rows = how.partition(_ROWS)
        whole = tensor.to(getattr(torch, dtype)) if dtype else tensor
        if rows:
            padded = whole.new_zeros(int(rows), *whole.shape[1:])
            padded[:len(whole)] = whole
            whole = padded
        found[name] = whole
    return found


def _rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point() or tensor.dtype.itemsize <= dtype.itemsize:
        return tensor
    rounded = tensor.to(dtype)
    return tensor if bool((tensor == tensor.round()).all()) and not torch.equal(rounded.to(tensor.dtype), tensor) \
        else rounded


def _without_last_zeros(tensor: Tensor) -> Tensor:
    """Up to the last row that is not 0; the tensor itself where that is the last one."""
    if tensor.ndim < 2 or not tensor.numel():
        return tensor
    rows = tensor.contiguous().flatten(1).view(torch.uint8).any(1).nonzero()  # -0.0 has a bit that is not 0
    last = int(rows[-1]) + 1 if len(rows) else 0
    return tensor if last == len(tensor) else tensor[:last].clone()
