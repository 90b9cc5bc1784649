"""Pipelines of published sizes with random weights, for measuring: nothing is downloaded.

Denoiser, VAE and text encoders have their published shapes: whoever keeps text encoders on the card pays for them.
`tiny` keeps the structure and makes everything narrow.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.tiny.texts import clip_encoder, clip_tokenizer  # noqa: E402
from visalign.config import ModelSettings  # noqa: E402
from visalign.generators import FAMILIES, Generator  # noqa: E402
from visalign.generators.hardware.devices import check_speed  # noqa: E402
from visalign.generators.hardware.offloading import place  # noqa: E402
from visalign.generators.hardware.quantization import check_quantizer, quantize_parts  # noqa: E402
from visalign.generators.shape import Shape  # noqa: E402

IMAGE_VAE = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
             "layers_per_block": 2, "force_upcast": False}


@dataclass(frozen=True)
class Published:
    """A pipeline's class, its network and VAE (class of diffusers, arguments), and what `tiny` changes in each.

    texts: from their widths (CLIP, second CLIP, T5) to the pipeline's other parts. made_for: the size measured at.
    """

    pipeline: str
    network: tuple[str, dict[str, Any]]
    tiny: dict[str, Any]
    vae: tuple[str, dict[str, Any]]
    tiny_vae: dict[str, Any]
    texts: Callable[..., dict[str, Any]]
    widths: tuple[int, int, int]
    tiny_widths: tuple[int, int, int]
    made_for: Shape
    tiny_made_for: Shape
    prompt_tokens: int | None = None


CLIP_LAYERS = {768: 12, 1280: 32}
"""Of the published CLIP text encoders (CLIP-L, OpenCLIP bigG) by their width; a narrower one has two."""
T5_WIDTH = 4096


def _clip(kind: str, words, width: int) -> nn.Module:
    import transformers

    if width not in CLIP_LAYERS:
        return clip_encoder(getattr(transformers, kind), words, width, 77)
    return getattr(transformers, kind)(transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=CLIP_LAYERS[width],
        num_attention_heads=width // 64, max_position_embeddings=77, projection_dim=width,
        pad_token_id=words.pad_token_id, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id))


def _t5(width: int, kind: str = "T5", vocabulary: int = 32128) -> nn.Module:
    """The encoder of T5-XXL, or of umT5-XXL, by its width; one small layer for another width."""
    import transformers

    sizes = {"vocab_size": vocabulary, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64} \
        if width == T5_WIDTH else {"vocab_size": 1400, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = getattr(transformers, f"{kind}Config")(d_model=width, feed_forward_proj="gated-gelu",
                                                    is_encoder_decoder=False, **sizes)
    return getattr(transformers, f"{kind}EncoderModel")(config)


def _sdxl(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import EulerDiscreteScheduler

    words = clip_tokenizer()
    return {"text_encoder": _clip("CLIPTextModel", words, clip), "tokenizer": words,
            "text_encoder_2": _clip("CLIPTextModelWithProjection", words, second), "tokenizer_2": words,
            "scheduler": EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                                timestep_spacing="leading", steps_offset=1)}


def _sd3(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    words = clip_tokenizer()
    return {"text_encoder": _clip("CLIPTextModelWithProjection", words, clip), "tokenizer": words,
            "text_encoder_2": _clip("CLIPTextModelWithProjection", words, second), "tokenizer_2": words,
            "text_encoder_3": _t5(t5), "tokenizer_3": words, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}


def _flux(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    words = clip_tokenizer()
    return {"text_encoder": _clip("CLIPTextModel", words, clip), "tokenizer": words,
            "text_encoder_2": _t5(t5), "tokenizer_2": words,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)}


def _wan(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return {"text_encoder": _t5(t5, "UMT5", 256384), "tokenizer": clip_tokenizer(),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}


def _image_vae(channels: int, **more: Any) -> tuple[str, dict[str, Any]]:
    return "AutoencoderKL", IMAGE_VAE | {"block_out_channels": (128, 256, 512, 512), "latent_channels": channels} | more


NARROW_VAE = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
SIZES = {
    "sdxl": Published(
        "StableDiffusionXLPipeline", ("UNet2DConditionModel", {
            "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
            "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816}),
        {"sample_size": 8, "block_out_channels": (8, 16, 16), "transformer_layers_per_block": (1, 1, 2),
         "attention_head_dim": 2, "cross_attention_dim": 32, "norm_num_groups": 4, "addition_time_embed_dim": 4,
         "projection_class_embeddings_input_dim": 16 + 24},
        _image_vae(4, scaling_factor=0.13025), NARROW_VAE, _sdxl, (768, 1280, 0), (16, 16, 0), Shape(1024, 1024),
        Shape(64, 64)),
    "sd3.5-medium": Published(
        "StableDiffusion3Pipeline", ("SD3Transformer2DModel", {
            "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
            "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
            "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}),
        {"sample_size": 8, "num_layers": 3, "attention_head_dim": 8, "num_attention_heads": 2,
         "joint_attention_dim": 32, "caption_projection_dim": 16, "pooled_projection_dim": 32, "pos_embed_max_size": 8,
         "dual_attention_layers": (0, 1)},
        _image_vae(16, scaling_factor=1.5305, shift_factor=0.0609), NARROW_VAE, _sd3, (768, 1280, 4096), (16, 16, 32),
        Shape(512, 512), Shape(64, 64), 256),
    "flux": Published(
        "FluxPipeline", ("FluxTransformer2DModel", {"guidance_embeds": True}),
        {"num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 2,
         "joint_attention_dim": 32, "pooled_projection_dim": 16, "axes_dims_rope": (4, 4, 8)},
        _image_vae(16, scaling_factor=0.3611, shift_factor=0.1159), NARROW_VAE, _flux, (768, 0, 4096), (16, 0, 32),
        Shape(1024, 1024), Shape(64, 64), 512),
    "wan2.1-1.3b": Published(
        "WanPipeline", ("WanTransformer3DModel", {
            "num_attention_heads": 12, "attention_head_dim": 128, "text_dim": 4096, "ffn_dim": 8960, "num_layers": 30}),
        {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "ffn_dim": 32, "num_layers": 2},
        ("AutoencoderKLWan", {}), {"base_dim": 8, "num_res_blocks": 1}, _wan, (0, 0, 4096), (0, 0, 32),
        Shape(240, 416, 33, 16.0), Shape(32, 32, 5, 16.0), 256),
}


def build(name: str, device: torch.device, settings: ModelSettings, tiny: bool = False) -> Generator:
    """A generator of random weights on a device: on a GPU all but its VAE in bf16, elsewhere in single precision."""
    size = SIZES[name]
    check_quantizer(settings.quantization)
    check_speed(settings, FAMILIES[size.pipeline], device)
    held = torch.bfloat16 if device.type == "cuda" else torch.float32
    whole = device if settings.quantization == "none" else torch.device("cpu")  # its layers go over one by one
    tokens = settings.prompt_tokens or size.prompt_tokens
    generator = FAMILIES[size.pipeline](
        pipeline_of(name, whole, device, held, held, tiny), device=device, compute_dtype=torch.bfloat16,
        shape=shape_of(name, tiny), prompt_tokens=tokens and (16 if tiny else tokens), attention=settings.attention)
    if settings.quantization != "none":
        quantize_parts(generator, settings)
    place(generator, settings.offload, trained=False)
    generator.observe()
    return generator


def shape_of(name: str, tiny: bool) -> Shape:
    """The size that a network is measured at."""
    return SIZES[name].tiny_made_for if tiny else SIZES[name].made_for


def pipeline_of(name: str, whole: torch.device, device: torch.device, network: torch.dtype, texts: torch.dtype,
                tiny: bool):
    """A diffusers pipeline of random weights: its network on `whole`, all else on `device`, its VAE in float32."""
    import diffusers

    size = SIZES[name]
    torch.manual_seed(0)
    denoiser = _made(size.network, size.tiny if tiny else {}, whole, network)
    with _made_as(device, texts):
        parts = size.texts(*(size.tiny_widths if tiny else size.widths))
    return getattr(diffusers, size.pipeline)(**parts | {
        FAMILIES[size.pipeline].denoiser_name: denoiser,
        "vae": _made(size.vae, size.tiny_vae if tiny else {}, device, torch.float32)})


@contextlib.contextmanager
def _made_as(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Modules that are made within it are there and so at once: a large one would not fit in single precision first."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def _made(described: tuple[str, dict[str, Any]], changes: dict[str, Any], device: torch.device,
          dtype: torch.dtype) -> nn.Module:
    import diffusers

    kind, arguments = described
    with _made_as(device, dtype):
        network = getattr(diffusers, kind)(**arguments | changes)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # layers that start at zero give no gradients to what is before them
                parameter.normal_(std=0.02)
    return network.to(device)
