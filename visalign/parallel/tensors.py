"""Tensors of which each process holds a part, told apart from whole ones, and turned into each other."""

from collections.abc import Iterable

import torch
from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Whether each process holds a part of it (a DTensor, whose class takes a while to import)."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "placements")


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, in parts as `like` is; unchanged where `like` is whole."""
    if not is_sharded(like) or is_sharded(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(named: Iterable[tuple[str, Tensor]], keep: bool = True) -> dict[str, Tensor]:
    """Whole tensors by name, on the CPU, gathered one by one; {} where not `keep`. Every process must call this."""
    found = {}
    for name, tensor in named:
        if is_sharded(tensor):
            tensor = tensor.detach().full_tensor()
        if keep:
            found[name] = tensor.detach().cpu()
    return found


@torch.no_grad()
def optimizer_state_laid_out(state: dict, parameters: list[Tensor]) -> dict:
    """An optimiser's state_dict of whole tensors for these parameters, in the order of its groups, in their parts."""
    def place(number: int, value):
        like = parameters[number]
        return laid_out(value, like) if isinstance(value, Tensor) and value.shape == like.shape else value

    return state | {"state": {number: {name: place(number, value) for name, value in of_one.items()}
                              for number, of_one in state["state"].items()}}
