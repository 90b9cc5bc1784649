"""The device and the precision to compute in."""

import contextlib
from collections.abc import Iterator

import torch

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.hardware.kernels import check_attention


def pick_device(device: str = "auto") -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.device is cuda, but torch sees no CUDA device; use auto or cpu")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The compute type; `auto` is bf16 on hardware that has it (GPUs since Ampere, some CPUs), else fp32.

    A GPU that is planned for and not there has it.
    """
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if not torch.cuda.is_available() or torch.cuda.is_bf16_supported() else torch.float32
    has_bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if has_bf16 else torch.float32


@contextlib.contextmanager
def arithmetic_of(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Within it arithmetic is by autocast in `dtype`, even on a device that is not here, which torch's own refuses."""
    kind = device.type
    before = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    torch.set_autocast_enabled(kind, dtype != torch.float32)
    torch.set_autocast_dtype(kind, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(kind, before[0])
        torch.set_autocast_dtype(kind, before[1])


def check_speed(settings: ModelSettings, family: type[Generator], device: torch.device) -> None:
    """Raise UserError, before anything is loaded, for a kernel or precision that this machine or family lacks."""
    check_attention(settings.attention, device, pick_dtype(settings.precision, device))
    if settings.vae_precision == "bf16" and family.exact_vae:
        raise UserError(f"model.vae_precision bf16: the VAE of {family.pipeline_class} has activations too large for "
                        "it; leave it out")


def held_dtype(settings: ModelSettings, device: torch.device) -> torch.dtype:
    """The type in which frozen weights are held. Raises UserError for one that cannot be computed with."""
    compute_dtype = pick_dtype(settings.precision, device)
    if settings.weights == "auto":
        return compute_dtype if device.type == "cuda" else torch.float32
    if settings.weights != "fp32" and compute_dtype == torch.float32:
        raise UserError(f"model.weights {settings.weights}: cannot be computed with in fp32, which model.precision "
                        f"{settings.precision} is on this device; use model.weights=fp32 or model.precision=bf16")
    return pick_dtype(settings.weights, device)
