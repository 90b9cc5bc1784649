"""From a hub id, a folder or a single file to a Generator of the right family, with mistakes found before loading."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from visalign.config import Model
from visalign.errors import UserError
from visalign.generators.adapters import add_lora
from visalign.generators.base import Generator
from visalign.generators.cogvideox import CogVideoXGenerator
from visalign.generators.flux import FluxGenerator
from visalign.generators.hunyuan import HunyuanVideoGenerator
from visalign.generators.lora_files import fit_lora
from visalign.generators.ltx import LTXGenerator
from visalign.generators.sd3 import SD3Generator
from visalign.generators.shape import Shape
from visalign.generators.unet import SDGenerator, SDXLGenerator
from visalign.generators.wan import WanGenerator
from visalign.generators.wan_image import WanImageGenerator

FAMILIES: dict[str, type[Generator]] = {
    family.pipeline_class: family for family in (
        SD3Generator, FluxGenerator, SDXLGenerator, SDGenerator,
        WanGenerator, WanImageGenerator, LTXGenerator, HunyuanVideoGenerator, CogVideoXGenerator)
}
ASSETS = Path(__file__).resolve().parents[1] / "assets"
EMBEDDED = {name: ASSETS / name for name in ("tiny-sd3", "tiny-sdxl", "tiny-wan")}
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_WHOLE_CHECKPOINT = ("first_stage_model.", "conditioner.", "cond_stage_model.", "text_encoders.", "vae.")


@dataclass(frozen=True)
class Checkpoint:
    """Where a pipeline's parts are and which family reads them, known without loading weights."""

    folder: str  # a local folder or hub id in diffusers layout
    single_file: Path | None
    family: type[Generator]


def inspect_checkpoint(settings: Model) -> Checkpoint:
    """Find the family of `settings.source` from its index alone.

    Raises UserError when the source is no pipeline, is of an unsupported class, or holds pickled weights.
    """
    source = settings.source
    path = Path(source).expanduser()
    if path.suffix.lower() in PICKLES:
        raise UserError(f"model {source}: pickled weights can run code when read and are refused; "
                        "convert them to .safetensors first")
    if path.suffix == ".safetensors":
        return _inspect_single_file(path, settings)
    folder = EMBEDDED.get(source, path)
    if not folder.exists() and path.is_absolute():
        raise UserError(f"model {source}: there is no such folder")
    if not folder.exists():
        return Checkpoint(source, None, _family(_hub_index(source), source))
    return Checkpoint(str(folder), None, _family(_local_index(folder), source))


def _inspect_single_file(path: Path, settings: Model) -> Checkpoint:
    if not path.is_file():
        raise UserError(f"model {path}: there is no such file")
    if settings.base is None:
        raise UserError(f"model {path}: a single file needs model.base, a diffusers folder or hub id of the same "
                        "family that supplies the configuration and the parts the file lacks")
    base = inspect_checkpoint(settings.model_copy(update={"source": settings.base, "base": None}))
    return Checkpoint(base.folder, path, base.family)


def _local_index(folder: Path) -> dict:
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"model {folder}: not a diffusers pipeline, it has no model_index.json")
    try:
        parsed = json.loads(index.read_text())
    except ValueError:
        raise UserError(f"model {index}: not readable as JSON") from None
    for part in sorted(p for p in folder.iterdir() if p.is_dir()):
        files = {f.suffix for f in part.iterdir()}
        if ".safetensors" not in files and files & set(PICKLES):
            raise UserError(f"model {part}: it holds only pickled weights, which are refused; "
                            "convert them to .safetensors first")
    return parsed


def _hub_index(source: str) -> dict:
    from huggingface_hub import hf_hub_download

    try:
        return json.loads(Path(hf_hub_download(source, "model_index.json")).read_text())
    except Exception as error:  # the hub raises many kinds; all mean the same to a person
        known = ", ".join(EMBEDDED)
        raise UserError(f"model {source}: neither a local folder nor an embedded model ({known}), and the hub "
                        f"did not give its model_index.json ({type(error).__name__})") from error


def _family(index: dict, source: str) -> type[Generator]:
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise UserError(f"model {source}: its pipeline class {name} is not supported (supported: "
                        f"{', '.join(sorted(FAMILIES))})")
    return FAMILIES[name]


def pick_device(device: str = "auto") -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but torch sees no CUDA device; use auto or cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The arithmetic type; `auto` is bf16 on hardware that has it (GPUs since Ampere, some CPUs), else fp32."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 else torch.float32


def load_generator(source: str | Model, device: str | torch.device = "auto") -> Generator:
    """Load a generator from a hub id, a diffusers folder, an embedded name, or full `Model` settings.

    On a GPU frozen weights are held in the arithmetic type; the VAE always stays in float32, where it cannot
    overflow. Raises UserError for anything that is no supported pipeline.
    """
    import diffusers

    settings = source if isinstance(source, Model) else Model(source=str(source))
    checkpoint = inspect_checkpoint(settings)
    device = pick_device(device) if isinstance(device, str) else device
    compute_dtype = pick_dtype(settings.precision, device)
    held = compute_dtype if device.type == "cuda" else torch.float32
    pipeline_class = getattr(diffusers, checkpoint.family.pipeline_class)
    diffusers.utils.logging.disable_progress_bar()
    _quiet_transformers()
    try:
        pipeline = _load_pipeline(pipeline_class, checkpoint, held)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"model {settings.source}: could not be loaded ({reason})") from error
    pipeline.to(device)
    if settings.vae_slicing:
        pipeline.vae.enable_slicing()
    if settings.vae_tiling:
        pipeline.vae.enable_tiling()
    return checkpoint.family(pipeline, device=device, compute_dtype=compute_dtype, attention=settings.attention,
                             shape=shape_of(settings, checkpoint), prompt_tokens=settings.prompt_tokens)


SHAPE_FILE = "visalign.json"
"""Beside model_index.json: the {"height", "width", "frames", "fps"} a model was trained for, where its own
configuration does not say so."""


def shape_of(settings: Model, checkpoint: Checkpoint) -> Shape:
    """What the settings ask for, and else what the model's folder says. Raises UserError for an unusable file."""
    side = settings.resolution
    height, width = (side, side) if isinstance(side, int) or side is None else side
    asked = Shape(height, width, settings.frames, settings.fps)
    file = Path(checkpoint.folder) / SHAPE_FILE
    if not file.is_file():
        return asked
    try:
        return asked.or_else(Shape(**json.loads(file.read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"model {file}: not readable as {{height, width, frames, fps}} ({error})") from None


def _quiet_transformers() -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()


def _load_pipeline(pipeline_class, checkpoint: Checkpoint, dtype: torch.dtype):
    dtypes = {"vae": torch.float32, "default": dtype}
    if checkpoint.single_file is None:
        return pipeline_class.from_pretrained(checkpoint.folder, torch_dtype=dtypes, use_safetensors=True)
    if _holds_whole_checkpoint(checkpoint.single_file):
        pipeline = pipeline_class.from_single_file(str(checkpoint.single_file), config=checkpoint.folder,
                                                   torch_dtype=dtype)
        pipeline.vae.to(torch.float32)
        return pipeline
    name = checkpoint.family.denoiser_name
    denoiser = denoiser_class(checkpoint).from_single_file(
        str(checkpoint.single_file), config=checkpoint.folder, subfolder=name, torch_dtype=dtype)
    return pipeline_class.from_pretrained(checkpoint.folder, torch_dtype=dtypes, use_safetensors=True,
                                          **{name: denoiser})


def _holds_whole_checkpoint(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return any(key.startswith(_WHOLE_CHECKPOINT) for key in file.keys())  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"model {path}: not a readable safetensors file ({error})") from None


def denoiser_class(checkpoint: Checkpoint) -> type[nn.Module]:
    """The network class of the checkpoint's family."""
    import diffusers

    return getattr(diffusers, checkpoint.family.denoiser_class)


def check_adapter(settings: Model, path: Path) -> None:
    """Raise UserError unless a LoRA file or folder fits the model, of which no weights are read."""
    import diffusers
    import transformers

    checkpoint = inspect_checkpoint(settings)
    pipeline = getattr(diffusers, checkpoint.family.pipeline_class)
    parts = {name: entry for name, entry in _index_of(checkpoint.folder).items()
             if name in pipeline._lora_loadable_modules and isinstance(entry, list) and entry[0]}
    fit_lora(path, {name: _empty_part(getattr({"diffusers": diffusers, "transformers": transformers}[library], kind),
                                      checkpoint.folder, name) for name, (library, kind) in parts.items()},
             pipeline, checkpoint.family.denoiser_name)


def empty_generator(checkpoint: Checkpoint, settings: Model) -> Generator:
    """The generator with its adapter on the meta device: sizes and shapes without memory, for `--dry-run`."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    libraries = {"diffusers": diffusers, "transformers": transformers}
    index, parts = _index_of(checkpoint.folder), {}
    for name, (library, kind) in ((k, v) for k, v in index.items() if isinstance(v, list)):
        wanted = library in libraries and (name == "scheduler" or name == "vae" or name.startswith(
            ("text_encoder", "image_encoder", checkpoint.family.denoiser_name)))
        parts[name] = _empty_part(getattr(libraries[library], kind), checkpoint.folder, name) if wanted else None
    settings_of_index = {key: value for key, value in index.items() if not key.startswith("_") and
                         not isinstance(value, list)}
    pipeline = getattr(diffusers, checkpoint.family.pipeline_class)(**parts, **settings_of_index)
    generator = checkpoint.family(pipeline, device=torch.device("meta"), shape=shape_of(settings, checkpoint),
                                  prompt_tokens=settings.prompt_tokens)
    with torch.device("meta"):
        if settings.tuning == "full":
            generator.denoiser.requires_grad_(True)
        else:
            lora = settings.lora
            add_lora(generator.denoiser, lora.rank, lora.alpha, lora.dropout, lora.targets or generator.lora_targets)
    return generator


def _index_of(folder: str) -> dict:
    local = Path(folder)
    return _local_index(local) if local.is_dir() else _hub_index(folder)


def _empty_part(kind: type, folder: str, name: str):
    if name == "scheduler":
        return kind.from_pretrained(folder, subfolder=name)
    if hasattr(kind, "load_config"):  # of diffusers
        with torch.device("meta"):
            return kind.from_config(kind.load_config(folder, subfolder=name))
    with torch.device("meta"):
        return kind._from_config(kind.config_class.from_pretrained(folder, subfolder=name))
