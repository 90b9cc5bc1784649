"""The parts of a pipeline in diffusers layout: which are omitted, and which of several files each is read from."""

import importlib
import re
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from visalign.errors import UserError, notice
from visalign.storage.weights import PICKLES

_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[^.]+?))?(?:-\d{5}-of-\d{5})?"
                      r"(?:\.(?P<older>[^.]+))?\.safetensors")
_PREFERRED = (None, "fp32", "bf16", "fp16")
"""Variants of weights, of which the first one present is read; None is the plain one."""
_MODELS = ("transformer", "unet", "vae", "text_encoder", "image_encoder")
_LIBRARIES = ("diffusers", "transformers")


def parts_of(index: dict) -> dict[str, tuple[str | None, str | None]]:
    """(library, class) of every part that a model_index.json names; (None, None) for one that was omitted."""
    return {name: tuple(value) for name, value in index.items() if isinstance(value, list) and len(value) == 2
            and all(each is None or isinstance(each, str) for each in value)}


def networks_of(index: dict) -> dict[str, type]:
    """The classes of the networks that an index names, by part. Raises UserError for an unknown one."""
    found = {}
    for name, (library, kind) in parts_of(index).items():
        if kind is not None and name.startswith(_MODELS):
            found[name] = getattr(importlib.import_module(library), kind, None) if library in _LIBRARIES else None
            if found[name] is None:
                raise UserError(f"model_index.json names {library}.{kind} as its {name}, which is not a class of "
                                f"{' or '.join(_LIBRARIES)} here; a newer version may have it")
    return found


def networks_beside(index: dict) -> dict[str, type]:
    """The classes of further networks that a pipeline's call may use, by part; some are defined beside pipelines."""
    found = {}
    for name, (library, kind) in parts_of(index).items():
        if kind is not None and not name.startswith(_MODELS):
            known = library in _LIBRARIES
            home = importlib.import_module(library if known else "diffusers.pipelines")
            kind = getattr(home if known else getattr(home, library, None), kind, None)
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                found[name] = kind
    return found


def left_out(checkpoint) -> dict:
    """Arguments for the pipeline of a ModelLocation: None for parts that are absent or not needed.

    Raises UserError for a part that is needed and missing, cannot be left out, or holds pickled weights only.
    """
    parts, family, folder = parts_of(checkpoint.index()), checkpoint.family, checkpoint.local
    given = {name: None for name, (_, kind) in parts.items() if kind is None} | dict(family.unneeded)
    _check_without(checkpoint.without, family)
    given |= dict.fromkeys(checkpoint.without)
    missing = {name for name in parts.keys() - given.keys() if not _has_source(checkpoint, name, parts[name][1])}
    _check_missing(checkpoint, sorted(missing - set(family.droppable)))
    given |= dict.fromkeys(missing)
    given |= {name: None for name in family.droppable if name not in parts}
    absent = [name for name in family.droppable if name in given]
    if absent:
        given |= dict.fromkeys(family.droppable)
        if not checkpoint.without:
            notice(f"model {checkpoint.name}: {' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} absent, so "
                   f"prompts are encoded without {family.droppable[0]}")
    if folder is not None:
        for name in sorted(parts.keys() - given.keys() - checkpoint.parts.keys()):
            _check_not_pickled(folder / name)
    return given


def _has_source(checkpoint, name: str, kind: str) -> bool:
    """Whether a part's files are known to be somewhere; what the hub has is known by its index alone."""
    if name in checkpoint.parts or checkpoint.local is None or checkpoint.file_of(name, kind):
        return True
    files = [file.suffix for file in (checkpoint.local / name).glob("*")]
    if checkpoint.file is None or not name.startswith(_MODELS):
        return bool(files)
    return bool({".safetensors", *PICKLES} & set(files))


def _check_missing(checkpoint, missing: list[str]) -> None:
    if missing and checkpoint.file is not None:
        raise UserError(f"model {checkpoint.name}: its {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} "
                        "neither in the file nor in model.base; name model.base, a whole model of the same family, or "
                        f"model.parts: {{{', '.join(f'{name}: ...' for name in missing)}}}")
    if missing:
        raise UserError(f"model {checkpoint.folder}: its model_index.json names the part {missing[0]}, and there is no "
                        "such folder with files in it; the download may be incomplete")


def _check_without(names: tuple[str, ...], family) -> None:
    for name in names:
        if name not in (*family.droppable, *family.unneeded):
            able = ", ".join(family.droppable) or "none of its parts"
            raise UserError(f"model.without {name}: {family.pipeline_class} cannot run without it; it can without "
                            f"{able}")


def _check_not_pickled(part: Path) -> None:
    _refuse_pickles([file.name for file in part.iterdir()], part)


def _refuse_pickles(names: Iterable[str], part: Path | str) -> None:
    suffixes = {Path(name).suffix for name in names}
    if ".safetensors" not in suffixes and suffixes & set(PICKLES):
        raise UserError(f"model {part}: it holds only pickled weights, which are refused; convert them to "
                        ".safetensors first")


def variant_of(part: Path) -> str | None:
    """The variant of the weights to read ('fp16' of model.fp16.safetensors), None where there are plain ones.

    Raises UserError when there are several and none is preferred.
    """
    return _variant_among([file.name for file in part.iterdir()], part)


def _variant_among(names: Iterable[str], part: Path | str) -> str | None:
    found = {_variant(name) for name in names if _WEIGHTS.fullmatch(name)} or {None}
    chosen = next((name for name in _PREFERRED if name in found), min(found, key=str))
    if chosen not in _PREFERRED and len(found) > 1:
        raise UserError(f"model {part}: holds the weights {', '.join(sorted(map(str, found)))} and none without a "
                        "variant; keep the ones to be used")
    return chosen


def _variant(name: str) -> str | None:
    match = _WEIGHTS.fullmatch(name)
    return match and (match["variant"] or match["older"])


def needed_files(checkpoint, names: Iterable[str]) -> list[str]:
    """Of the files of a hub repository those that a ModelLocation is loaded from: one variant of each network.

    Raises UserError for a network of which there are only pickled weights.
    """
    given, found = left_out(checkpoint), []
    for part, (_, kind) in parts_of(checkpoint.index()).items():
        if part in given:
            continue
        inside = [name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/")]
        elsewhere = part in checkpoint.parts or checkpoint.file_of(part, kind)
        if part.startswith(_MODELS) and not elsewhere:
            _refuse_pickles(inside, f"{checkpoint.folder}, its {part}")
            variant = _variant_among(inside, f"{checkpoint.folder}, its {part}")
            found += [f"{part}/{name}" for name in inside if _WEIGHTS.fullmatch(name) and _variant(name) == variant]
        found += [f"{part}/{name}" for name in inside if Path(name).suffix not in (".safetensors", *PICKLES, *_OTHERS)]
    return [*found, *(name for name in names if "/" not in name and name.endswith(".json"))]


_OTHERS = (".msgpack", ".onnx", ".onnx_data", ".pb", ".xml", ".h5")
"""Weights of other programs, which are not downloaded."""
