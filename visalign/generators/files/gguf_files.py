"""Denoisers in GGUF files: quantised, frozen bases for a LoRA, and for sampling. Reading them needs the package `gguf`.

diffusers unpacks the weights layer by layer as it computes. What is in a file is checked by its header, as for others.
"""

from pathlib import Path

import torch
from torch import nn

from visalign.errors import UserError
from visalign.generators.files.single_file import SingleFile


def read_gguf_file(path: Path, part: str | None = None) -> SingleFile:
    """Read the header of a denoiser's GGUF file. Raises UserError for a broken file."""
    shapes = {tensor.name: tuple(int(side) for side in reversed(tensor.shape)) for tensor in _tensors(path)}
    return SingleFile(path, shapes, {}, part, quantised=True)


def packed_size(file: SingleFile | None) -> tuple[int, int]:
    """How many numbers of a file stay packed, and the bytes that they take; none where the file is no GGUF file."""
    packed = [each for each in _tensors(file.path) if each.tensor_type.name not in _UNPACKED] \
        if file and file.quantised else []
    return sum(int(each.n_elements) for each in packed), sum(int(each.n_bytes) for each in packed)


_UNPACKED = ("F32", "F16")
"""Kinds of tensors that diffusers turns into the type in which the others are computed."""


def _tensors(path: Path) -> list:
    """A file's tensors as the library describes them. Raises UserError for a broken file."""
    where = f"model {path}"
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"{where}: GGUF files need the package gguf: pip install 'visalign[gguf]'") from None
    if not path.is_file():
        raise UserError(f"{where}: there is no such file")
    try:
        return GGUFReader(path).tensors
    except (ValueError, KeyError, IndexError, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: cannot be read as GGUF ({reason}); download it again") from error

def load_quantised(kind: type[nn.Module], file: SingleFile, folder: str, name: str, dtype: torch.dtype) -> nn.Module:
    """The network with its weights as they are packed in the file.

    dtype: of what is computed, and of weights that are not packed.
    """
    from diffusers import GGUFQuantizationConfig

    return kind.from_single_file(str(file.path), config=folder, subfolder=name, torch_dtype=dtype,
                                 quantization_config=GGUFQuantizationConfig(compute_dtype=dtype)).eval()
