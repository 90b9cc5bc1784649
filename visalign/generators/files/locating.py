"""Where a model's parts are and which family reads them, with mistakes found before weights are read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.families.registry import FAMILIES, editing, family_of
from visalign.generators.files.embedded import EMBEDDED_MODELS
from visalign.generators.files.given_parts import given_parts, read_weights_file
from visalign.generators.files.layouts import layout_folder, layout_name
from visalign.generators.files.made_for import Sampling, sampling_of
from visalign.generators.files.parts import left_out, needed_files
from visalign.generators.files.single_file import SingleFile
from visalign.generators.files.wrong_models import is_weights, refuse_wrong_file, refuse_wrong_folder
from visalign.storage.hub_files import hub_file, hub_folder, hub_reason
from visalign.storage.text_files import read_text


@dataclass(frozen=True)
class ModelLocation:
    """Where a pipeline's parts are and which family reads them, known without loading weights.

    parts: those that were given apart. without: those that the pipeline runs without. prediction: as in the settings.
    """

    folder: str  # a local folder or hub id in diffusers layout
    file: SingleFile | None  # its weights replace the folder's
    family: type[Generator]
    parts: Mapping[str, SingleFile | Path] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    prediction: str = "auto"

    @property
    def name(self) -> str:
        """Its file or folder."""
        return str(self.file.path if self.file else self.folder)

    @property
    def local(self) -> Path | None:
        """The folder, None for a hub id."""
        return Path(self.folder) if Path(self.folder).is_dir() else None

    def index(self) -> dict:
        """The content of its model_index.json."""
        return _local_index(self.local) if self.local else _hub_index(self.folder)

    def file_of(self, name: str, kind: str) -> SingleFile | None:
        """The single file that holds a part of this class; None for one that is read from a folder."""
        if name in self.parts:
            given = self.parts[name]
            return given if isinstance(given, SingleFile) else None
        return self.file if self.file and self.file.names_of(name, kind)[1] else None

    def folder_of(self, name: str) -> tuple[str, str]:
        """Where a part's configuration is, and its weights unless a single file holds them: (folder, folder in it)."""
        given = self.parts.get(name)
        return (str(given), "") if isinstance(given, Path) else (self.folder, name)

    def path_of(self, name: str) -> Path:
        """The local folder of a part."""
        return Path(*self.folder_of(name))

    @property
    def denoiser_file(self) -> SingleFile | None:
        """The single file of its denoiser."""
        return self.file_of(self.family.denoiser_name, self.family.denoiser_class)


def locate_model(settings: ModelSettings) -> ModelLocation:
    """Find the family of `settings.source` from its index alone, and what else the settings give.

    Raises UserError when the source is no pipeline, is of an unsupported class, lacks parts or holds pickled weights.
    """
    located = _located(settings)
    parts = given_parts(settings.parts, located.index(), located.family)
    located = replace(located, parts=parts, without=settings.without, prediction=settings.prediction)
    file = located.denoiser_file
    if file is not None:
        file.fits(located.family.pipeline_class, _named_by(settings))
        if located.family.process_kind == "diffusion":
            file.noise_settings()
        if file.quantised and settings.tuning == "full":
            raise UserError(f"model {file.path}: the weights of a GGUF file are packed and cannot be trained; set "
                            "model.tuning lora, or give the model's .safetensors")
        if file.quantised and settings.quantization != "none":
            raise UserError(f"model {file.path}: the weights of a GGUF file are packed as they are; set "
                            "model.quantization none")
    left_out(located)
    return located


def fetched(checkpoint: ModelLocation) -> ModelLocation:
    """The model with all its files on this machine; of a hub id those that are needed are downloaded.

    Raises UserError when the hub does not give them.
    """
    if checkpoint.local:
        return checkpoint
    try:
        folder = hub_folder(checkpoint.folder, lambda names: needed_files(checkpoint, names))
    except UserError:
        raise
    except Exception as error:  # as for the index
        raise UserError(f"model {checkpoint.folder}: could not be downloaded ({hub_reason(error)})") from error
    return replace(checkpoint, folder=str(folder))


def _located(settings: ModelSettings) -> ModelLocation:
    source = settings.source
    path = Path(source).expanduser()
    refuse_wrong_file(path)
    if is_weights(path):
        return _inspect_single_file(path, settings)
    folder = EMBEDDED_MODELS.get(source, path)
    if not folder.exists() and path.is_absolute():
        raise UserError(f"model {source}: there is no such folder; what can be named: visalign list generators")
    if not folder.exists():
        return ModelLocation(source, None, _family(_hub_index(source), source, settings.edit))
    return ModelLocation(str(folder), None, _family(_local_index(folder), source, settings.edit))


def _inspect_single_file(path: Path, settings: ModelSettings) -> ModelLocation:
    file = read_weights_file(path)
    file.check_whole()
    base = settings.base or str(layout_folder(layout_name(file, settings.prediction)))
    found = _located(settings.model_copy(update={"source": base, "base": None}))
    return replace(found, file=file)


def _named_by(settings: ModelSettings) -> str:
    """What named the pipeline, in words."""
    return f"model.base {settings.base}" if settings.base else f"model {settings.source}"


def _local_index(folder: Path) -> dict:
    index = folder / "model_index.json"
    refuse_wrong_folder(folder)
    if not index.is_file():
        raise UserError(f"model {folder}: not a diffusers pipeline, it has no model_index.json")
    try:
        parsed = json.loads(read_text(index, f"model {index}"))
    except ValueError:
        raise UserError(f"model {index}: not readable as JSON") from None
    if not isinstance(parsed, dict):
        raise UserError(f"model {index}: a mapping of a pipeline's parts is expected")
    return parsed


def _hub_index(source: str) -> dict:
    try:
        return json.loads(hub_file(source, "model_index.json").read_text())
    except Exception as error:  # the hub raises many kinds of errors; `hub_reason` has the words
        known = ", ".join(EMBEDDED_MODELS)
        raise UserError(f"model {source}: neither a local folder nor an embedded model ({known}), and the hub "
                        f"did not give its model_index.json ({hub_reason(error)}); to download it: hf download {source}"
                        ) from error


def _family(index: dict, source: str, edit: bool) -> type[Generator]:
    name = index.get("_class_name")
    try:
        family = family_of(str(name))
    except UserError as error:
        raise UserError(f"model {source}: its pipeline class {name} is not supported ({error}); supported and tested "
                        f"are {', '.join(sorted(FAMILIES))}") from None
    return editing(family) if edit else family


def sampling_for(settings: ModelSettings, steps: int | None = None, guidance_scale: float | None = None) -> Sampling:
    """Steps and guidance as asked for, and else as this model has them; nothing is loaded."""
    checkpoint = locate_model(settings)
    return sampling_of(checkpoint.folder, checkpoint.family, steps, guidance_scale)
