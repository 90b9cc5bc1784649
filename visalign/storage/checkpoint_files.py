"""Reading a checkpoint of a run: weights as safetensors, the rest with weights_only, and its step."""

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from visalign.errors import UserError
from visalign.storage.run_folder import fault_of


class BrokenCheckpoint(UserError):
    """A checkpoint whose files are not what was written; an older one may be intact."""


def read_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Trainable weights and the rest. Raises BrokenCheckpoint naming the folder when a file is broken."""
    fault = fault_of(folder)
    if fault:
        raise BrokenCheckpoint(f"checkpoint {folder}: is broken, {fault}")
    try:
        weights = load_file(folder / "trainable.safetensors")
        return weights, torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
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
            parameter.copy_(weights[name])
