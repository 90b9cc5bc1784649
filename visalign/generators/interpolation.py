"""Weights between whole models: W = (1 - w_1 - w_2 - ...) W_base + w_1 W_1 + w_2 W_2 + ...

A line from the base to one run is WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903); several runs are a soup (Wortsman
et al. 2022, arXiv 2203.05482; rewarded soups, Rame et al. 2023, arXiv 2306.04488).
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.storage.weights import check_finite, open_tensors, some


class WeightAverage:
    """Puts averages with pipelines' folders into the denoiser's networks of a generator, which is the base.

    again: whether `put` is called more than once, for which the base's own weights are kept beside.
    """

    def __init__(self, generator: Generator, again: bool = True):
        self._own = {part: network.state_dict() for part, network in generator.networks().items()}
        self._base = {part: {name: tensor.clone() for name, tensor in own.items()} if again else own
                      for part, own in self._own.items()}

    def put(self, parts: Sequence[tuple[float, Path]]) -> None:
        """parts: (weight, folder of a pipeline). Raises UserError unless every weight of every network is there, in the
        base's shape and finite, before any is changed."""
        with contextlib.ExitStack() as stack:
            opened = [(weight, {part: _opened(folder / part, stack) for part in self._own}) for weight, folder in parts]
            for (_, folder), (_, files) in zip(parts, opened, strict=True):
                for part, own in self._own.items():
                    _check(own, files[part], f"weights {folder / part}")
            for part, own in self._own.items():
                self._put(part, own, [(weight, files[part]) for weight, files in opened])

    @torch.no_grad()
    def _put(self, part: str, own: dict[str, Tensor], opened: list[tuple[float, dict]]) -> None:
        rest = 1 - sum(weight for weight, _ in opened)
        for name, tensor in own.items():
            if tensor.is_floating_point():
                value = rest * self._base[part][name].float()
                for weight, files in opened:
                    value += weight * files[name].get_tensor(name).to(value)
                check_finite([(f"{part}.{name}", value)], "average")
                tensor.copy_(value)


def _opened(folder: Path, stack: contextlib.ExitStack) -> dict:
    """The open file that holds a weight, by the weight's name."""
    files = [stack.enter_context(open_tensors(file, f"weights {file}"))
             for file in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}  # noqa: SIM118


def _check(own: dict[str, Tensor], files: dict, where: str) -> None:
    odd = own.keys() ^ files.keys()
    if odd:
        raise UserError(f"{where}: {len(odd)} weights are there or in its base alone: {some(odd)}; it was made from "
                        "another base")
    other = [name for name, file in files.items() if tuple(file.get_slice(name).get_shape()) != tuple(own[name].shape)]
    if other:
        raise UserError(f"{where}: {len(other)} weights have other shapes than in its base: {some(other)}; it was made "
                        "from another base")
