"""A state of which each process holds parts, as files, one or more a process: torch.distributed.checkpoint in its
safetensors form, so that nothing is unpickled, and any number of processes reads what any other number wrote.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.parallel.tensors import is_sharded

IN_PARTS = "tensor in parts"
PATTERN = "shard-*.safetensors"


def holds_parts(folder: Path) -> bool:
    """Whether a checkpoint was written in parts."""
    return next(folder.glob(PATTERN), None) is not None


def write_parts(state: Any, folder: Path) -> Any:
    """Write the tensors in parts of nested dicts and lists; what is left, with a mark for each. All must call this.

    Raises OSError.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    found: dict[str, Tensor] = {}
    rest = _taken(state, "", found)
    try:
        _quietly(_library().save, found,
                 storage_writer=_library().HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise OSError("; ".join(f"process {rank}: {why}" for rank, why in error.failures.items())) from None
    return rest


def read_parts(rest: Any, folder: Path, empty: Callable[..., Tensor]) -> Any:
    """The state again, its tensors as `empty(shape, dtype=...)` makes them: whole, or in parts of this run.

    Raises RuntimeError or OSError for files that are not what was written.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    found: dict[str, Tensor] = {}
    _each_mark(rest, lambda mark: found.update(
        {mark[IN_PARTS]: empty(tuple(mark["shape"]), dtype=getattr(torch, mark["dtype"]))}))
    alone = not any(map(is_sharded, found.values()))
    try:
        _quietly(_library().load, found, storage_reader=_library().HuggingFaceStorageReader(str(folder)), no_dist=alone)
    except CheckpointException as error:
        raise OSError(str(next(iter(error.failures.values())))) from None
    return _each_mark(rest, lambda mark: found[mark[IN_PARTS]])


def _library():
    import torch.distributed.checkpoint as library

    if not hasattr(library, "HuggingFaceStorageWriter"):
        raise UserError(f"torch {torch.__version__}: cannot write a sharded run's checkpoints as safetensors; install "
                        "torch 2.9 or newer")
    return library


def _quietly(call: Callable, *arguments, **options) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process is known
        call(*arguments, **options)


def _taken(state: Any, at: str, found: dict[str, Tensor]) -> Any:
    if isinstance(state, dict):
        return {key: _taken(value, f"{at}{key}/", found) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_taken(value, f"{at}{place}/", found) for place, value in enumerate(state))
    if isinstance(state, Tensor) and is_sharded(state):
        name = at.removesuffix("/")
        found[name] = state.detach()
        return {IN_PARTS: name, "shape": list(state.shape), "dtype": str(state.dtype).removeprefix("torch.")}
    return state


def _each_mark(rest: Any, make: Callable[[dict], Any]) -> Any:
    if isinstance(rest, dict):
        return make(rest) if IN_PARTS in rest else {key: _each_mark(value, make) for key, value in rest.items()}
    if isinstance(rest, list | tuple):
        return type(rest)(_each_mark(value, make) for value in rest)
    return rest
