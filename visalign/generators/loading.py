"""From a hub id, a folder or a single file to a Generator of the right family."""

import torch
from torch import nn

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.files.assembling import load_pipeline
from visalign.generators.files.locating import fetched, locate_model
from visalign.generators.files.sketching import explained, shape_of, sketch
from visalign.generators.hardware.devices import check_speed, held_dtype, pick_device, pick_dtype
from visalign.generators.hardware.offloading import place
from visalign.generators.hardware.quantization import check_quantizer, is_quantized, quantize_parts
from visalign.generators.lora.layers import Beneath
from visalign.generators.lora.start import beneath
from visalign.storage.out_of_memory import give_back, keep_no_holes, memory_told
from visalign.storage.weights import check_finite, check_present

LARGE_PIPELINE = 500_000_000
"""Numbers in a pipeline from which on holes in memory cost more than the time to leave none."""


@memory_told("loading the model")
def load_generator(source: str | ModelSettings, device: str | torch.device = "auto", *,
                   denoiser: bool = True, sketched: bool = False) -> Generator:
    """Load a generator from a hub id, a diffusers folder, an embedded name, or full `Model` settings.

    Frozen weights are held as `held_dtype` says; the VAE always stays in float32, where it cannot overflow. denoiser:
    False leaves its weights out, on which no encoding depends. sketched: whether a sketch of it has been made, and so
    every mistake that this reveals is known. Raises UserError for anything that is not a supported pipeline.
    """
    import diffusers

    settings = source if isinstance(source, ModelSettings) else ModelSettings(source=str(source))
    check_quantizer(settings.quantization)
    checkpoint = fetched(locate_model(settings))
    device = pick_device(device) if isinstance(device, str) else device
    compute_dtype = pick_dtype(settings.precision, device)
    check_speed(settings, checkpoint.family, device)
    pipeline_class = getattr(diffusers, checkpoint.family.pipeline_class)
    diffusers.utils.logging.disable_progress_bar()
    _quiet_transformers()
    with explained(settings.source):
        if sketched and denoiser and not settings.loras and settings.lora.start is None:
            below, blank = Beneath({}, {}), ()
        else:
            empty = sketch(checkpoint, settings)
            below, blank = beneath(empty, settings), () if denoiser else tuple(empty.networks())
        pipeline = load_pipeline(pipeline_class, checkpoint, held_dtype(settings, device), blank, device)
    loaded = {f"model {settings.source}, its {name}": part for name, part in pipeline.components.items()
              if isinstance(part, nn.Module) and name not in blank}
    for where, part in loaded.items():
        check_present(part, where)
    numbers = sum(weight.numel() for part in loaded.values() for weight in part.parameters())
    if device.type == "cpu" and numbers > LARGE_PIPELINE:
        keep_no_holes()
    _cut_up(pipeline.vae, settings, checkpoint.family)
    generator = checkpoint.family(pipeline, device=device, compute_dtype=compute_dtype, attention=settings.attention,
                                  shape=shape_of(settings, checkpoint), prompt_tokens=settings.prompt_tokens,
                                  call=settings.call, guided=settings.guidance == "observed",
                                  vae_precision=settings.vae_precision)
    if settings.quantization != "none":
        quantize_parts(generator, settings, denoiser)
    offload = settings.offload if denoiser or settings.offload == "none" else "frozen"
    place(generator, offload, trained=settings.tuning == "full")
    for where, part in loaded.items():
        if not is_quantized(part):  # those were looked at before
            check_finite(part.state_dict().items(), where)
    try:
        generator.observe()
    except UserError as error:
        raise UserError(f"model {settings.source} ({checkpoint.family.pipeline_class}): {error}") from error
    generator.put_on(below, settings.tuning)
    give_back()
    return generator


def _cut_up(vae: nn.Module, settings: ModelSettings, family: type[Generator]) -> None:
    """Let the VAE work on samples one by one, or on tiles, where that is asked for or needed."""
    if settings.vae_slicing:
        vae.enable_slicing()
    if settings.vae_tiling or family.needs_tiling:
        vae.enable_tiling()


def _quiet_transformers() -> None:
    import transformers

    transformers.utils.logging.disable_progress_bar()
