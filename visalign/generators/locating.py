"""Where a model's parts are and which family reads them, with mistakes found before weights are read."""

import json
from dataclasses import dataclass
from pathlib import Path

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.embedded import EMBEDDED_MODELS
from visalign.generators.families import FAMILIES, editing, family_of
from visalign.generators.made_for import Sampling, sampling_of
from visalign.generators.parts import left_out
from visalign.generators.single_file import SingleFile, read_single_file
from visalign.generators.wrong_models import refuse_wrong_file, refuse_wrong_folder
from visalign.storage.hub_files import hub_file, hub_reason
from visalign.storage.text_files import read_text


@dataclass(frozen=True)
class ModelLocation:
    """Where a pipeline's parts are and which family reads them, known without loading weights."""

    folder: str  # a local folder or hub id in diffusers layout
    file: SingleFile | None  # its weights replace the folder's
    family: type[Generator]

    @property
    def local(self) -> Path | None:
        """The folder, None for a hub id."""
        return Path(self.folder) if Path(self.folder).is_dir() else None

    def index(self) -> dict:
        """The content of its model_index.json."""
        return _local_index(self.local) if self.local else _hub_index(self.folder)


def locate_model(settings: ModelSettings) -> ModelLocation:
    """Find the family of `settings.source` from its index alone.

    Raises UserError when the source is not a pipeline, is of an unsupported class, or holds pickled weights.
    """
    source = settings.source
    path = Path(source).expanduser()
    refuse_wrong_file(path)
    if path.suffix.lower() == ".safetensors":
        return _inspect_single_file(path, settings)
    folder = EMBEDDED_MODELS.get(source, path)
    if not folder.exists() and path.is_absolute():
        raise UserError(f"model {source}: there is no such folder; what can be named: visalign list generators")
    if not folder.exists():
        return ModelLocation(source, None, _family(_hub_index(source), source, settings.edit))
    index = _local_index(folder)
    family = _family(index, source, settings.edit)
    left_out(index, folder, family)
    return ModelLocation(str(folder), None, family)


def _inspect_single_file(path: Path, settings: ModelSettings) -> ModelLocation:
    file = read_single_file(path)
    file.refuse_lora()
    if settings.base is None:
        raise UserError(f"model {path}: a single file needs model.base, a diffusers folder or hub id of the same "
                        "family that supplies the configuration and the parts the file lacks")
    base = locate_model(settings.model_copy(update={"source": settings.base, "base": None}))
    file.fits(base.family.pipeline_class, settings.base)
    if base.family.process_kind == "diffusion":
        file.noise_settings()
    return ModelLocation(base.folder, file, base.family)


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
