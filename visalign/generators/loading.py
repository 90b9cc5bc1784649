"""From a hub id, a folder or a single file to a Generator of the right family, with mistakes found before loading."""

import contextlib
import importlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.adapters import check_targets
from visalign.generators.base import Generator
from visalign.generators.completeness import check_part, check_words, tell_what_is_beside
from visalign.generators.families import FAMILIES, editing, family_of
from visalign.generators.lora_files import fit_lora
from visalign.generators.made_for import Sampling, sampling_of, told_shape
from visalign.generators.parts import left_out, parts_of, variant_of
from visalign.generators.schedulers import check_agrees, rises
from visalign.generators.shape import Shape
from visalign.generators.single_file import PREDICTION_MARKS, SingleFile, read_single_file
from visalign.generators.wrong_models import refuse_wrong_file, refuse_wrong_folder
from visalign.storage.hub_files import hub_file, hub_reason
from visalign.storage.text_files import read_text
from visalign.storage.weights import check_finite, check_present, read_tensors

MODEL_ASSETS = Path(__file__).resolve().parents[1] / "assets"
EMBEDDED_PROMPTS = {"tiny-sd3": "emoji", "tiny-sdxl": "emoji", "tiny-wan": "videos", "tiny-edit": "emoji-edits"}
"""By the name of an embedded model, the set of prompts that it was trained on, of which a part was held out."""
EMBEDDED_MODELS = {name: MODEL_ASSETS / name for name in EMBEDDED_PROMPTS}


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


def pick_device(device: str = "auto") -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but torch sees no CUDA device; use auto or cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The compute type; `auto` is bf16 on hardware that has it (GPUs since Ampere, some CPUs), else fp32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 else torch.float32


def load_generator(source: str | ModelSettings, device: str | torch.device = "auto") -> Generator:
    """Load a generator from a hub id, a diffusers folder, an embedded name, or full `Model` settings.

    On a GPU frozen weights are held in the compute type; the VAE always stays in float32, where it cannot
    overflow. Raises UserError for anything that is not a supported pipeline.
    """
    import diffusers

    settings = source if isinstance(source, ModelSettings) else ModelSettings(source=str(source))
    checkpoint = locate_model(settings)
    device = pick_device(device) if isinstance(device, str) else device
    compute_dtype = pick_dtype(settings.precision, device)
    held = compute_dtype if device.type == "cuda" else torch.float32
    pipeline_class = getattr(diffusers, checkpoint.family.pipeline_class)
    diffusers.utils.logging.disable_progress_bar()
    _quiet_transformers()
    with _explained(settings.source):
        sketch(checkpoint, settings)
        pipeline = _load_pipeline(pipeline_class, checkpoint, held)
    loaded = {f"model {settings.source}, its {name}": part for name, part in pipeline.components.items()
              if isinstance(part, nn.Module)}
    for where, part in loaded.items():
        check_present(part, where)
    pipeline.to(device)
    for where, part in loaded.items():
        check_finite(part.state_dict().items(), where)
    if settings.vae_slicing:
        pipeline.vae.enable_slicing()
    if settings.vae_tiling or checkpoint.family.needs_tiling:
        pipeline.vae.enable_tiling()
    generator = checkpoint.family(pipeline, device=device, compute_dtype=compute_dtype, attention=settings.attention,
                                  shape=shape_of(settings, checkpoint), prompt_tokens=settings.prompt_tokens,
                                  call=settings.call, guided=settings.guidance == "observed")
    try:
        generator.observe()
    except UserError as error:
        raise UserError(f"model {settings.source} ({checkpoint.family.pipeline_class}): {error}") from error
    return generator


@contextlib.contextmanager
def _explained(source: str) -> Iterator[None]:
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


def sampling_for(settings: ModelSettings, steps: int | None = None, guidance_scale: float | None = None) -> Sampling:
    """Steps and guidance as asked for, and else as this model has them; nothing is loaded."""
    checkpoint = locate_model(settings)
    return sampling_of(checkpoint.folder, checkpoint.family, steps, guidance_scale)


def _quiet_transformers() -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()


def load_scheduler(checkpoint: ModelLocation):
    """The pipeline's scheduler, configured as a single file states. Raises UserError when training cannot follow it."""
    try:
        return _load_scheduler(checkpoint)
    except UserError as error:
        raise UserError(f"model {checkpoint.file.path if checkpoint.file else checkpoint.folder}: {error}") from error
    except OSError as error:
        raise UserError(f"model {checkpoint.folder}: its scheduler_config.json cannot be read "
                        f"({' '.join(str(error).split())[:160]})") from None


def _load_scheduler(checkpoint: ModelLocation):
    import diffusers

    index = checkpoint.index()
    checkpoint.family.check_pipeline(index)
    _, name = parts_of(index).get("scheduler", (None, None))
    kind = getattr(diffusers, str(name), None)
    if kind is None:
        raise UserError(f"its scheduler {name} is not a scheduler of diffusers {diffusers.__version__}")
    config = kind.load_config(checkpoint.folder, subfolder="scheduler")
    written = config.get("_class_name", name)
    scheduler = kind.from_config(config)
    settings = checkpoint.file.noise_settings() if checkpoint.file and checkpoint.family.process_kind == "diffusion" \
        else {}
    if settings:
        if not settings.keys() <= inspect.signature(kind.__init__).parameters.keys():
            kind = diffusers.EulerDiscreteScheduler  # knows them all
        scheduler = kind.from_config(scheduler.config, **settings)
    if rises(scheduler) and not checkpoint.family.rises:
        raise UserError(f"its scheduler {name} (invert_sigmas True) counts noise levels from noise to data, which its "
                        "family was not trained with")
    process = checkpoint.family.process_of(scheduler)
    check_agrees(process, scheduler)
    if written != name and hasattr(diffusers, written):  # the index decides, but both must describe the same training
        other = getattr(diffusers, written).from_config(config)
        checkpoint.family.process_of(other)
        check_agrees(process, other)
    return scheduler


def _load_pipeline(pipeline_class, checkpoint: ModelLocation, dtype: torch.dtype):
    index, dtypes = checkpoint.index(), {"vae": torch.float32, "default": dtype}
    given = left_out(index, checkpoint.local, checkpoint.family) | {"scheduler": load_scheduler(checkpoint)}
    models = {name: kind for name, kind in _models(index).items() if name not in given}

    def of_folder(name: str) -> nn.Module:
        variant = variant_of(checkpoint.local / name) if checkpoint.local else None
        return models[name].from_pretrained(checkpoint.folder, subfolder=name, variant=variant, use_safetensors=True,
                                            torch_dtype=dtypes.get(name, dtype))

    file, denoiser = checkpoint.file, checkpoint.family.denoiser_name
    texts = {name for name in models if name.startswith("text_encoder") and
             file and file.has_text(name, models[name].__name__)}
    of_file = {denoiser, *(["vae"] if file.has_vae else [])} if file else set()
    if checkpoint.local:
        check_words(checkpoint.local, parts_of(index).keys() - given.keys())
        for name in models.keys() - of_file - texts:
            check_part(models[name], checkpoint.local / name, variant_of(checkpoint.local / name))
    if file is None:
        given |= {name: of_folder(name) for name in models}
        return pipeline_class.from_pretrained(checkpoint.folder, use_safetensors=True, **given)
    weights = {name: tensor for name, tensor in read_tensors(file.path, f"model {file.path}").items()
               if name not in PREDICTION_MARKS}
    for name in of_file:
        given[name] = models[name].from_single_file(dict(weights), config=checkpoint.folder, subfolder=name,
                                                    torch_dtype=dtypes.get(name, dtype))
    tell_what_is_beside(file.path, given[denoiser])
    given |= {name: of_folder(name) for name in models.keys() - given.keys() - texts}
    if not texts:
        return pipeline_class.from_pretrained(checkpoint.folder, use_safetensors=True, **given)
    return pipeline_class.from_single_file(str(file.path), config=checkpoint.folder, torch_dtype=dtype, **given)


_MODELS = ("transformer", "unet", "vae", "text_encoder", "image_encoder")


def _models(index: dict) -> dict[str, type]:
    """The classes of the networks that an index names, by part. Raises UserError for an unknown one."""
    found = {}
    for name, (library, kind) in parts_of(index).items():
        if kind is not None and name.startswith(_MODELS):
            found[name] = getattr(importlib.import_module(library), kind, None) if library in _LIBRARIES else None
            if found[name] is None:
                raise UserError(f"model_index.json names {library}.{kind} as its {name}, which is not a class of "
                                f"{' or '.join(_LIBRARIES)} here; a newer version may have it")
    return found


_LIBRARIES = ("diffusers", "transformers")


def denoiser_class(checkpoint: ModelLocation) -> type[nn.Module]:
    """The network class of the checkpoint's family."""
    import diffusers

    return getattr(diffusers, checkpoint.family.denoiser_class)


def check_adapter(settings: ModelSettings, path: Path) -> None:
    """Raise UserError unless a LoRA file or folder fits the model, whose weights are not read."""
    import diffusers

    checkpoint = locate_model(settings)
    pipeline, index = getattr(diffusers, checkpoint.family.pipeline_class), checkpoint.index()
    given = left_out(index, checkpoint.local, checkpoint.family)
    with _explained(settings.source):
        parts = {name: _empty_part(kind, checkpoint.folder, name) for name, kind in _models(index).items()
                 if name in checkpoint.family.adapted_parts(pipeline) and name not in given}
    fit_lora(path, parts, pipeline, checkpoint.family.denoiser_name)


def sketch(checkpoint: ModelLocation, settings: ModelSettings) -> Generator:
    """The generator on the meta device: sizes and shapes without memory, and every mistake they reveal.

    Raises UserError for settings that this model cannot follow.
    """
    import diffusers

    index = checkpoint.index()
    given = left_out(index, checkpoint.local, checkpoint.family)
    parts = dict.fromkeys(parts_of(index)) | {"scheduler": load_scheduler(checkpoint)} | given
    for name, kind in _models(index).items():
        if name not in given:
            parts[name] = _empty_part(kind, checkpoint.folder, name)
    for name, (library, kind) in parts_of(index).items():
        if name == "processor" and kind is not None:  # some pipelines use it as soon as they are made
            parts[name] = getattr(importlib.import_module(library), kind).from_pretrained(checkpoint.folder,
                                                                                          subfolder=name)
    settings_of_index = {key: value for key, value in index.items() if not key.startswith("_") and
                         not isinstance(value, list)}
    pipeline = getattr(diffusers, checkpoint.family.pipeline_class)(**settings_of_index | parts)
    generator = checkpoint.family(pipeline, device=torch.device("meta"), shape=shape_of(settings, checkpoint),
                                  prompt_tokens=settings.prompt_tokens, call=settings.call,
                                  guided=settings.guidance == "observed")
    if settings.tuning == "lora" and settings.lora.targets is not None:
        check_targets(generator.denoiser, settings.lora.targets)
    return generator


def empty_generator(checkpoint: ModelLocation, settings: ModelSettings) -> Generator:
    """The sketch with its adapter, for `--dry-run`."""
    with _explained(settings.source):
        generator = sketch(checkpoint, settings)
    with torch.device("meta"):
        if settings.tuning == "full":
            generator.denoiser.requires_grad_(True)
        else:
            lora = settings.lora
            generator.make_trainable("lora", rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout,
                                     targets=lora.targets)
    return generator


def _empty_part(kind: type, folder: str, name: str):
    if hasattr(kind, "load_config"):  # of diffusers
        with torch.device("meta"):
            return kind.from_config(kind.load_config(folder, subfolder=name))
    with torch.device("meta"):
        return kind._from_config(kind.config_class.from_pretrained(folder, subfolder=name))
