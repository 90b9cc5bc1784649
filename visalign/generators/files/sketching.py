"""A generator without weights: its sizes and shapes, and every mistake that they reveal."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.files.file_parts import configured, tensors_for
from visalign.generators.files.given_parts import check_alike
from visalign.generators.files.locating import ModelLocation, locate_model
from visalign.generators.files.made_for import told_shape
from visalign.generators.files.parts import left_out, networks_beside, networks_of, parts_of
from visalign.generators.files.scheduler_files import load_scheduler
from visalign.generators.lora.adapters import check_lora_names
from visalign.generators.lora.layers import Layers
from visalign.generators.lora.matching import fit_lora
from visalign.generators.lora.start import beneath
from visalign.generators.shape import Shape


@contextlib.contextmanager
def explained(source: str) -> Iterator[None]:
    """Turns whatever the loading libraries raise into one sentence; `--debug` shows the rest."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {source}: could not be loaded ({type(error).__name__}: {reason})") from error


def shape_of(settings: ModelSettings, checkpoint: ModelLocation) -> Shape:
    """The shape from the settings, else from the model's folder. Raises UserError for an unusable file."""
    side = settings.resolution
    height, width = (side, side) if isinstance(side, int) or side is None else side
    return Shape(height, width, settings.frames, settings.fps).or_else(told_shape(checkpoint.folder))


def check_adapter(settings: ModelSettings, path: Path) -> dict[str, Layers]:
    """What a LoRA file or folder holds, by network and layer. Raises UserError unless it fits the model, whose weights
    are not read."""
    import diffusers

    checkpoint = locate_model(settings)
    pipeline, index = getattr(diffusers, checkpoint.family.pipeline_class), checkpoint.index()
    given = left_out(checkpoint)
    with explained(settings.source):
        parts = {name: _empty_part(kind, checkpoint, name) for name, kind in networks_of(index).items()
                 if name in checkpoint.family.adapted_parts(pipeline) and name not in given}
    return fit_lora(path, parts, pipeline, checkpoint.family.denoiser_name, checkpoint.family.interface_name)


def sketch(checkpoint: ModelLocation, settings: ModelSettings, words: bool = False) -> Generator:
    """The generator on the meta device: sizes and shapes without memory, and every mistake they reveal.

    words: with the tokenizers, so that its pipeline can be called. Raises UserError for settings that this model cannot
    follow.
    """
    import diffusers

    index = checkpoint.index()
    given = left_out(checkpoint)
    parts = dict.fromkeys(parts_of(index)) | {"scheduler": load_scheduler(checkpoint)} | given
    for name, kind in (networks_of(index) | (networks_beside(index) if words else {})).items():
        if name not in given:
            parts[name] = _empty_part(kind, checkpoint, name)
    for name, (library, kind) in parts_of(index).items():
        early = name == "processor"  # some pipelines use it as soon as they are made
        if kind is not None and name not in given and (early or words and name.startswith(_WORDS)):
            folder, inner = checkpoint.folder_of(name)
            parts[name] = getattr(importlib.import_module(library), kind).from_pretrained(folder, subfolder=inner)
    settings_of_index = {key: value for key, value in index.items() if not key.startswith("_") and key not in parts}
    pipeline = getattr(diffusers, checkpoint.family.pipeline_class)(**settings_of_index | parts)
    generator = checkpoint.family(pipeline, device=torch.device("meta"), shape=shape_of(settings, checkpoint),
                                  prompt_tokens=settings.prompt_tokens, call=settings.call,
                                  guided=settings.guidance == "observed")
    if settings.tuning == "lora":
        check_lora_names(generator.denoiser, settings.lora, generator.lora_targets)
    return generator


_WORDS = ("tokenizer", "feature_extractor", "image_processor", "guider")
"""Parts without weights that a pipeline's call uses."""


def empty_generator(checkpoint: ModelLocation, settings: ModelSettings, words: bool = False) -> Generator:
    """The sketch with its adapter, for `--dry-run`."""
    with explained(settings.source):
        generator = sketch(checkpoint, settings, words)
    with _without_values():
        if settings.tuning == "full":
            generator.denoiser.requires_grad_(True)
        else:
            generator.put_on(beneath(generator, settings))
            generator.make_trainable(settings.tuning, user_features=settings.user_features, **dict(settings.lora))
    return generator


def with_start(settings: ModelSettings) -> ModelSettings:
    """The settings with the kind, rank and alpha of the LoRA that is trained on; its file is read, no model is.

    Raises UserError when they say otherwise themselves.
    """
    if settings.lora.start is None:
        return settings
    with explained(settings.source):
        start = beneath(sketch(locate_model(settings), settings), settings).start
    layers = [each for named in start.values() for each in named.values()]
    ranks = [each.rank for each in layers]
    usual = next(each for each in layers if each.rank == max(set(ranks), key=ranks.count))
    found = {"kind": usual.kind, "rank": usual.rank, "alpha": usual.scale * usual.rank}
    for name, value in found.items():
        asked = getattr(settings.lora, name)
        if name in settings.lora.model_fields_set and asked != value:
            raise UserError(f"model.lora.{name} {asked}: the LoRA of model.lora.start has {name} {value}; set "
                            f"model.lora.{name}={value}, or leave it out")
    return settings.model_copy(update={"lora": settings.lora.model_copy(update=found)})


def check_user_adapter(settings: ModelSettings, path: Path) -> None:
    """Raise UserError unless a user adapter fits the model, whose weights are not read."""
    with explained(settings.source):
        generator = sketch(locate_model(settings), settings)
    with _without_values():
        generator.load_user_adapter(path)


def _empty_part(kind: type, checkpoint: ModelLocation, name: str) -> nn.Module:
    """A network without memory. Raises UserError when the file or folder that it comes from is not one for it."""
    with _without_values():
        part = configured(kind, *checkpoint.folder_of(name))
        usual = configured(kind, checkpoint.folder, name) if isinstance(checkpoint.parts.get(name), Path) else None
    file = checkpoint.file_of(name, kind.__name__)
    if file is not None:
        tensors_for(part, file, name, file.where(name))
    if usual is not None:
        check_alike(part, usual, f"model.parts.{name} {checkpoint.parts[name]}")
    return part


class _NoValues(TorchFunctionMode):
    """Random numbers are not drawn: on the meta device that takes longer than all else, and gives nothing."""

    drawn = (Tensor.normal_, Tensor.uniform_)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func in self.drawn else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Within it modules are made on the meta device."""
    with torch.device("meta"), _NoValues():
        yield
