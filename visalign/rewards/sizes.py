"""How many bytes rewards' networks take as they are held, from configurations and headers; no weights are read."""

import logging
import math
from pathlib import Path

import torch

from visalign.storage.hub_files import hub_file
from visalign.storage.open_clip_models import model_name
from visalign.storage.weights import read_shapes

SINGLE = 4
"""Bytes of a number in single precision, in which most rewards are computed."""


_NO_NETWORK = (OSError, ValueError, TypeError, KeyError, RuntimeError)
"""What libraries raise for configurations that they cannot make a network of, which loading says in words."""


def of_open_clip(source: str | Path) -> int | None:
    """Of an open_clip model; None for one whose configuration is neither here nor given by the hub, or is wrong."""
    import open_clip

    name, _ = model_name(source)
    if name.startswith("hf-hub:") and _config(name.removeprefix("hf-hub:"), "open_clip_config.json") is None:
        return None
    logging.disable(logging.WARNING)  # it says that nothing was loaded
    try:
        with torch.device("meta"):
            return SINGLE * _numbers(open_clip.create_model(name, load_weights=False, device="meta"))
    except _NO_NETWORK:
        return None
    finally:
        logging.disable(logging.NOTSET)


def of_transformers(kind: str, source: str | Path, dtype: torch.dtype | None = torch.float32) -> int | None:
    """Of the network that a class of transformers makes of a folder's or hub id's configuration; None as above.

    dtype: in which it is held, None for its own.
    """
    import transformers

    config = _config(str(source), "config.json")
    if config is None:
        return None
    made = getattr(transformers, kind)
    try:
        settings = transformers.AutoConfig.from_pretrained(config.parent)
        with torch.device("meta"):
            network = made.from_config(settings) if kind.startswith("Auto") else made._from_config(settings)
    except _NO_NETWORK:
        return None
    held = dtype or getattr(settings, "dtype", None) or torch.float32
    return held.itemsize * _numbers(network)


def of_header(path: Path, where: str) -> int:
    """Of the tensors of a .safetensors file in single precision. Raises UserError starting with `where`."""
    return SINGLE * sum(math.prod(shape) for shape in read_shapes(path, where).values())


def file_here(source: str, name: str) -> Path | None:
    """A file of a folder, the file itself, or one of the hub that was downloaded before; None where it is not here."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(source).expanduser()
    if path.exists():
        return path if path.is_file() else path / name if (path / name).is_file() else None
    found = try_to_load_from_cache(source, name)
    return Path(found) if isinstance(found, str) else None


def sum_of(sizes: list[int | None]) -> int | None:
    """None where one of them is not known."""
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _config(source: str, name: str) -> Path | None:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    try:
        return hub_file(source, name)
    except Exception:  # the hub raises many kinds; whatever it is, the size is not known
        return None


def _numbers(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
