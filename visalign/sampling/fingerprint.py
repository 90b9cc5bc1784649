"""What an encoding depends on, as a hash: networks to the last weight, tokenizers, and the settings of a pipeline."""

import hashlib
import json

import numpy as np
import torch
from torch import Tensor, nn

from visalign.generators.hardware.quantization import plain_tensors

AT_ONCE = 2**22
"""Numbers that are summed at once: torch copies them in 8 bytes each, and a table of positions may have 200 million."""
FEW_NUMBERS = 2**14
"""Numbers up to which a dozen operations of numpy take less time than as many of torch."""
_AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def fingerprint(module: nn.Module) -> str:
    """A hash of a network's class, configuration, every weight and every buffer, at the precision it is held in.

    Weights are hashed as sums of their bits, row by row, so that a single changed or exchanged row shows.
    """
    digest = hashlib.sha256(f"{type(module).__name__} {_settings(module)}".encode())
    tensors = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in sorted(tensors, key=lambda entry: entry[0]):
        for part in plain_tensors(tensor):
            digest.update(f"{name} {tuple(part.shape)} {part.dtype}".encode() + _sums(part.detach()))
    return digest.hexdigest()


def _sums(tensor: Tensor) -> bytes:
    """Sums of bits over all numbers, and over rows and columns weighted by where they stand; exact."""
    if not tensor.numel():
        return b""
    bits = tensor.contiguous().view(_AS_INTEGERS[tensor.element_size()]) if tensor.dtype != torch.bool else tensor
    rows = bits.reshape(bits.shape[0] if bits.ndim > 1 else 1, -1)
    if rows.device.type == "cpu" and rows.numel() <= FEW_NUMBERS:
        return _sums_of_few(rows.numpy())
    found = torch.zeros(3, dtype=torch.int64, device=rows.device)
    many = max(1, AT_ONCE // rows.shape[1])
    for top, strip in enumerate(rows.split(many)):
        for left, part in enumerate(strip.split(AT_ONCE, dim=1)):
            by_row, by_column = part.sum(1, dtype=torch.int64), part.sum(0, dtype=torch.int64)
            found += torch.stack([by_row.sum(), _weighted(by_row, top * many), _weighted(by_column, left * AT_ONCE)])
    return found.cpu().numpy().tobytes()


def _sums_of_few(rows: np.ndarray) -> bytes:
    """As `_sums`, of [rows, columns]."""
    by_row, by_column = rows.sum(1, dtype=np.int64), rows.sum(0, dtype=np.int64)
    found = by_row.sum(), *((sums * np.arange(1, len(sums) + 1)).sum() for sums in (by_row, by_column))
    return np.array(found, dtype=np.int64).tobytes()


def _weighted(sums: Tensor, before: int) -> Tensor:
    """The sum of numbers, each as often as its place says."""
    return (sums * torch.arange(before + 1, before + len(sums) + 1, device=sums.device)).sum()


def _settings(module: nn.Module) -> str:
    """The configuration without names, paths and versions; and whether a VAE works in tiles, which shows at seams."""
    config = getattr(module, "config", {})
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {key: value for key, value in values.items()
            if not key.startswith("_") and key not in ("transformers_version", "dtype", "torch_dtype")}
    return json.dumps([kept, getattr(module, "use_tiling", False)], sort_keys=True, default=str)


def words(tokenizer) -> str:
    """A hash of a tokenizer or image processor: vocabulary, rules, special tokens, length."""
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        digest.update(json.dumps({key: value for key, value in rules.items() if key not in ("truncation", "padding")},
                                 sort_keys=True).encode())  # those two are what its last call was asked for
    elif hasattr(tokenizer, "get_vocab"):
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name in ("special_tokens_map", "model_max_length", "padding_side", "truncation_side"):
        digest.update(f"{name} {getattr(tokenizer, name, None)}".encode())
    if hasattr(tokenizer, "image_processor_type") or hasattr(tokenizer, "do_resize"):
        digest.update(json.dumps(tokenizer.to_dict(), sort_keys=True, default=str).encode())
    return digest.hexdigest()


def of_pipeline(pipeline) -> str:
    """The settings in a pipeline's own index, such as force_zeros_for_empty_prompt, and which parts it has."""
    config = {key: value for key, value in dict(pipeline.config).items() if not key.startswith("_")}
    return json.dumps({key: pipeline.components[key] is not None if key in pipeline.components else value
                       for key, value in config.items()}, sort_keys=True, default=str)
