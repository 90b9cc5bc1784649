"""Reading a checkpoint of a run: weights as safetensors, the rest with weights_only, and its step.

A sharded run's is in parts; any number of processes reads either kind.
"""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from visalign.errors import UserError
from visalign.parallel.shards import holds_parts, read_parts
from visalign.parallel.tensors import laid_out
from visalign.storage.run_folder import fault_of


class BrokenCheckpoint(UserError):
    """A checkpoint whose files are not what was written; an older one may be intact."""


def check_complete(folder: Path) -> None:
    """Raise BrokenCheckpoint naming the folder when its files are not what was written."""
    fault = fault_of(folder)
    if fault:
        raise BrokenCheckpoint(f"checkpoint {folder}: is broken, {fault}")


def read_checkpoint(folder: Path,
                    empty: Callable[..., torch.Tensor] = torch.zeros) -> tuple[dict[str, torch.Tensor], dict]:
    """Trainable weights and the rest. empty: makes what tensors in parts are read into.

    Raises BrokenCheckpoint naming the folder when a file cannot be read.
    """
    try:
        rest = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
        if not holds_parts(folder):
            return load_file(folder / "trainable.safetensors"), rest
        rest = read_parts(rest, folder, empty)
        return rest.pop("weights"), rest
    except (OSError, SafetensorError, RuntimeError, ValueError, LookupError, EOFError,
            pickle.UnpicklingError) as error:
        raise BrokenCheckpoint(f"checkpoint {folder}: cannot be read ({' '.join(str(error).split())[:150]})") from None


def step_of(folder: Path) -> int:
    try:
        return int(json.loads((folder / "state.json").read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BrokenCheckpoint(f"checkpoint {folder}: cannot be read ({' '.join(str(error).split())[:150]})") from None


def load_policy(parameters: list[tuple[str, nn.Parameter]], folder: Path) -> None:
    """Load the weights a checkpoint samples with: the moving average where the run kept one."""
    check_complete(folder)
    weights, rest = read_checkpoint(folder)
    put_weights(parameters, weights, folder)
    if rest["ema"]:
        with torch.no_grad():
            for (_, parameter), average in zip(parameters, rest["ema"]["shadow_params"], strict=True):
                parameter.copy_(average)


def put_weights(parameters: list[tuple[str, nn.Parameter]], weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Copy weights into parameters of the same names. Raises UserError when names or shapes differ."""
    mine = dict(parameters)
    if mine.keys() != weights.keys():
        odd = sorted(mine.keys() ^ weights.keys())[0]
        raise UserError(f"checkpoint {folder}: made for other trainable weights, {odd} is on one side only")
    odd = next((name for name, p in mine.items() if p.shape != weights[name].shape), None)
    if odd:
        raise UserError(f"checkpoint {folder}: made for other trainable weights, {odd} has the shape "
                        f"{tuple(weights[odd].shape)} there and {tuple(mine[odd].shape)} here")
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(laid_out(weights[name], parameter))
