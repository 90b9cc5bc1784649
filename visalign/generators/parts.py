"""The parts of a pipeline in diffusers layout: which are omitted, and which of several files each is read from."""

import importlib
import re
from pathlib import Path

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
    return {name: tuple(value) for name, value in index.items() if isinstance(value, list) and len(value) == 2}


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


def left_out(index: dict, folder: Path | None, family) -> dict:
    """Arguments for the pipeline: None for parts that are absent or not needed.

    folder: None for a hub id. Raises UserError for a part that is needed and missing, or holds pickled weights only.
    """
    parts = parts_of(index)
    given = {name: None for name, (_, kind) in parts.items() if kind is None} | dict(family.unneeded)
    if folder is not None:
        missing = {name for name in parts.keys() - given.keys() if not any((folder / name).glob("*"))}
        for name in sorted(missing - set(family.droppable)):
            raise UserError(f"model {folder}: its model_index.json names the part {name}, and there is no such folder "
                            "with files in it; the download may be incomplete")
        given |= dict.fromkeys(missing)
    given |= {name: None for name in family.droppable if name not in parts}
    if any(name in given for name in family.droppable):
        given |= dict.fromkeys(family.droppable)
        notice(f"model {folder or index.get('_class_name')}: {family.droppable[0]} is absent, so prompts are "
               "encoded without it")
    if folder is not None:
        for name in sorted(parts.keys() - given.keys()):
            _check_not_pickled(folder / name)
    return given


def _check_not_pickled(part: Path) -> None:
    suffixes = {file.suffix for file in part.iterdir()}
    if ".safetensors" not in suffixes and suffixes & set(PICKLES):
        raise UserError(f"model {part}: it holds only pickled weights, which are refused; convert them to "
                        ".safetensors first")


def variant_of(part: Path) -> str | None:
    """The variant of the weights to read ('fp16' of model.fp16.safetensors), None where there are plain ones.

    Raises UserError when there are several and none is preferred.
    """
    matches = [match for match in (_WEIGHTS.fullmatch(file.name) for file in part.iterdir()) if match]
    found = {match["variant"] or match["older"] for match in matches} or {None}
    chosen = next((name for name in _PREFERRED if name in found), min(found, key=str))
    if chosen not in _PREFERRED and len(found) > 1:
        raise UserError(f"model {part}: holds the weights {', '.join(sorted(map(str, found)))} and none without a "
                        "variant; keep the ones to be used")
    return chosen
