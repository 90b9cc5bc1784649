"""Weights on disk: reading .safetensors files, with one sentence for whatever is wrong with them, and writing them.

Everything that a user downloaded is checked here before it is used: no pickle, nothing truncated, every number
finite.
"""

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.storage.files import sync

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
NAMED = 3
"""How many tensors a message names; the others are counted."""


def some(names: Iterable[str]) -> str:
    """The first few of many names, and how many there are in all."""
    names = sorted(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def read_shapes(path: Path, where: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name from the header alone. Raises UserError starting with `where` for a damaged or truncated file."""
    with open_tensors(path, where) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    """Every tensor, on the CPU. Raises UserError starting with `where` for a broken file or a non-finite value."""
    with open_tensors(path, where) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    check_finite(tensors.items(), where)
    return tensors


def read_metadata(path: Path, where: str) -> dict[str, str]:
    """The texts in the header. Raises UserError starting with `where` for a damaged or truncated file."""
    with open_tensors(path, where) as file:
        return file.metadata() or {}


def open_tensors(path: Path, where: str):
    """A .safetensors file, of which the header alone is read. Raises UserError starting with `where`."""
    if path.suffix.lower() in PICKLES:
        raise UserError(f"{where}: pickled weights can run code when read and are refused; convert them to "
                        ".safetensors first")
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise UserError(f"{where}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{where}: cannot be read as .safetensors ({_what_it_is(path) or error})") from None


def _what_it_is(path: Path) -> str | None:
    """What the file really is, in words, where it can be recognised."""
    try:
        with path.open("rb") as file:
            start, size = file.read(512), path.stat().st_size
    except OSError as error:
        return error.strerror
    text = start.lstrip().lower()
    if not start:
        return "it is empty"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page: the download wanted a sign-in or failed"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: the weights themselves were not downloaded"
    if start.startswith((b"PK", b"\x80")):
        return "it is a pickle under another name"
    if start.startswith(b"GGUF"):
        return "it is a GGUF file under another name"
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and header < 2**32:
        return f"it is cut off after {size:,} bytes: download it again"
    return None


def check_finite(named: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Raise UserError starting with `where`, and naming the first tensors, when a value is NaN or infinite."""
    named = [(name, tensor) for name, tensor in named if tensor.is_floating_point() and not tensor.is_meta]
    for device in {tensor.device for _, tensor in named}:
        mine = [(name, tensor.detach()) for name, tensor in named if tensor.device == device]
        # one number per tensor leaves the device; values are inspected only where a sum is not finite
        sums = torch.stack([_sum(tensor) for _, tensor in mine]).isfinite().tolist()
        broken = [name for (name, tensor), fine in zip(mine, sums, strict=True)
                  if not fine and not tensor.float().isfinite().all()]
        if broken:
            raise UserError(f"{where}: {len(broken)} of {len(mine)} tensors are not finite (NaN or infinite): "
                            f"{some(broken)}; the file is broken, or its numbers are too large for this precision")


def _sum(tensor: Tensor) -> Tensor:
    return tensor.float().sum() if tensor.element_size() < 2 else tensor.sum(dtype=torch.float32)


def check_present(module: nn.Module, where: str) -> None:
    """Raise UserError starting with `where` when weights of a loaded module were missing from the files."""
    named = module.state_dict()
    absent = [name for name, tensor in named.items() if tensor.is_meta]
    if absent:
        raise UserError(f"{where}: the file lacks {len(absent)} of {len(named)} tensors: {some(absent)}")


def check_loaded(module: nn.Module, where: str) -> None:
    """Raise UserError starting with `where` unless every weight of a loaded module is there and finite."""
    check_present(module, where)
    check_finite(module.state_dict().items(), where)  # excludes masks and the like, which may hold -inf


def check_keys(info: Mapping, where: str) -> None:
    """Raise UserError for a `from_pretrained(..., output_loading_info=True)` in which not every tensor was loaded.

    info: missing_keys, unexpected_keys and mismatched_keys (names, or tuples that begin with one).
    """
    for key, what in (("missing_keys", "lacks {}: {}"), ("mismatched_keys", "holds {} of another shape: {}"),
                      ("unexpected_keys", "holds {} that the model has no place for: {}")):
        names = [name if isinstance(name, str) else name[0] for name in info.get(key) or ()]
        if names:
            count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
            raise UserError(f"{where}: {what.format(count, some(names))}; it belongs to another model or is damaged")


@contextlib.contextmanager
def quiet_reports() -> Iterator[None]:
    """Silence the loading libraries' own reports within this context, since they are evaluated here."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(library, library.get_verbosity()) for library in (diffusers_logging, transformers_logging)]
    for library, _ in before:
        library.set_verbosity(library.CRITICAL)
    try:
        yield
    finally:
        for library, level in before:
            library.set_verbosity(level)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write .safetensors atomically, also before a power loss, with the permissions of the umask. Raises OSError."""
    temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}-{path.name}")  # other processes may write the same file
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, metadata)
        temporary.chmod(mode)  # the library writes for the owner only
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except SafetensorError as error:  # the library wraps the system's error
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    finally:
        temporary.unlink(missing_ok=True)


def share_storage(folder: Path) -> None:
    """Give every file that a library wrote into `folder` the mode that a newly created file would have there."""
    probe = folder / ".tmp-mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(mode)


def read_json(path: Path, where: str) -> dict:
    """A JSON object. Raises UserError starting with `where` for anything else."""
    from visalign.storage.text_files import read_text

    try:
        found = json.loads(read_text(path, where))
    except (ValueError, RecursionError):
        raise UserError(f"{where}: not readable as JSON") from None
    if not isinstance(found, dict):
        raise UserError(f"{where}: not a JSON object")
    return found
