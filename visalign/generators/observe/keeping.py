"""Conventions on disk, so that a checkpoint is observed once. A file holds tensors and plain values, no code."""

import contextlib
import dataclasses
import functools
import hashlib
import io
from importlib import import_module
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from visalign.generators.observe.arguments import Layout, SamplePlace
from visalign.generators.observe.conventions import Conventions, VaeMap
from visalign.generators.observe.guidance import GuidanceRule
from visalign.generators.observe.latents import AxisOrder, Selection
from visalign.generators.observe.rows import Padding
from visalign.generators.observe.times import TimeRule
from visalign.storage.files import write_atomically

FOLDER = Path("~/.cache/visalign/conventions")
_KINDS = {kind.__name__: kind for kind in (Conventions, VaeMap, Layout, SamplePlace, GuidanceRule, AxisOrder, Selection,
                                           Padding, TimeRule)}
_GROUPS = {kind.__name__: kind for kind in (list, tuple, frozenset)}


def kept_conventions(key: str) -> Conventions | None:
    """What `keep_conventions` wrote under this key; None where there is nothing, or nothing that can be read."""
    try:
        found = _rebuilt(torch.load(_file(key), weights_only=True))
    except Exception:  # a broken file or another program's: whatever is wrong with it, it is written anew
        return None
    return found if isinstance(found, Conventions) else None


def keep_conventions(key: str, found: Conventions) -> None:
    """Write conventions for later processes, unless they hold what is no plain value or the folder takes no files."""
    try:
        plain = _plain(found)
    except TypeError:
        return
    file, content = _file(key), io.BytesIO()
    torch.save(plain, content)
    with contextlib.suppress(OSError):  # the next process observes the pipeline again
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())


def _file(key: str) -> Path:
    return FOLDER.expanduser() / f"{hashlib.sha256(f'{key} {_versions()}'.encode()).hexdigest()}.pt"


@functools.cache
def _versions() -> str:
    """Of the libraries, and of the code that observes."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return f"{diffusers.__version__} {torch.__version__} {digest.hexdigest()}"


def _plain(value: Any) -> Any:
    """Tensors and plain values as they are, all else as a tuple (name, content). Raises TypeError for other things."""
    if value is None or isinstance(value, Tensor | torch.dtype) or type(value) in (bool, int, float, str):
        return value.detach() if isinstance(value, Tensor) else value
    if type(value).__name__ in _KINDS and dataclasses.is_dataclass(value):
        return type(value).__name__, {each.name: _plain(getattr(value, each.name))
                                      for each in dataclasses.fields(value)}
    if isinstance(value, BaseOutput):
        return f"{type(value).__module__}:{type(value).__name__}", {key: _plain(each) for key, each in value.items()}
    if isinstance(value, dict):
        return "dict", [(_plain(key), _plain(each)) for key, each in value.items()]
    if isinstance(value, list | tuple | frozenset):
        name = next(name for name, kind in _GROUPS.items() if isinstance(value, kind))
        return name, [_plain(each) for each in value]
    raise TypeError(f"{type(value).__name__} is no plain value")


def _rebuilt(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    name, content = value
    if name in _GROUPS:
        return _GROUPS[name](_rebuilt(each) for each in content)
    if name == "dict":
        return {_rebuilt(key): _rebuilt(each) for key, each in content}
    fields = {key: _rebuilt(each) for key, each in content.items()}
    return _KINDS[name](**fields) if name in _KINDS else _output(name)(**fields)


def _output(name: str) -> type[BaseOutput]:
    """A class of diffusers that networks return, by `module:name`."""
    module, _, kind = name.partition(":")
    found = getattr(import_module(module), kind) if module.split(".")[0] == "diffusers" else None
    if not (isinstance(found, type) and issubclass(found, BaseOutput)):
        raise ValueError(f"{name} is no output of a network")
    return found
