"""Pipelines of published sizes with random weights, for measuring: nothing is downloaded.

The denoiser and the VAE have their published shapes; text encoders give embeddings of the published widths out of one
or two small layers, since prompts are encoded once. `tiny` keeps the structure and makes everything narrow.
"""

import sys
from collections.abc import Callable
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


def _t5(width: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=1400, d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                   is_encoder_decoder=False))


def _sdxl(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import EulerDiscreteScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    words = clip_tokenizer()
    return {"text_encoder": clip_encoder(CLIPTextModel, words, clip, 77), "tokenizer": words,
            "text_encoder_2": clip_encoder(CLIPTextModelWithProjection, words, second, 77), "tokenizer_2": words,
            "scheduler": EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                                timestep_spacing="leading", steps_offset=1)}


def _sd3(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import CLIPTextModelWithProjection

    words = clip_tokenizer()
    return {"text_encoder": clip_encoder(CLIPTextModelWithProjection, words, clip, 77), "tokenizer": words,
            "text_encoder_2": clip_encoder(CLIPTextModelWithProjection, words, second, 77), "tokenizer_2": words,
            "text_encoder_3": _t5(t5), "tokenizer_3": words, "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0)}


def _flux(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import CLIPTextModel

    words = clip_tokenizer()
    return {"text_encoder": clip_encoder(CLIPTextModel, words, clip, 77), "tokenizer": words,
            "text_encoder_2": _t5(t5), "tokenizer_2": words,
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)}


def _wan(clip: int, second: int, t5: int) -> dict[str, Any]:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    encoder = UMT5EncoderModel(UMT5Config(vocab_size=1400, d_model=t5, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                          is_encoder_decoder=False))
    return {"text_encoder": encoder, "tokenizer": clip_tokenizer(),
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
    """A generator of random weights on a device: the network in bf16 on a GPU, everything else in single precision."""
    import diffusers

    size = SIZES[name]
    check_quantizer(settings.quantization)
    check_speed(settings, FAMILIES[size.pipeline], device)
    torch.manual_seed(0)
    held = torch.bfloat16 if device.type == "cuda" else torch.float32
    whole = device if settings.quantization == "none" else torch.device("cpu")  # its layers go over one by one
    network = _made(size.network, size.tiny if tiny else {}, whole, held)
    parts = size.texts(*(size.tiny_widths if tiny else size.widths))
    denoiser = FAMILIES[size.pipeline].denoiser_name
    pipeline = getattr(diffusers, size.pipeline)(**parts | {
        denoiser: network, "vae": _made(size.vae, size.tiny_vae if tiny else {}, device, torch.float32)})
    generator = FAMILIES[size.pipeline](
        pipeline, device=device, compute_dtype=torch.bfloat16, shape=size.tiny_made_for if tiny else size.made_for,
        prompt_tokens=size.prompt_tokens and (16 if tiny else size.prompt_tokens), attention=settings.attention)
    if settings.quantization != "none":
        quantize_parts(generator, settings)
    place(generator, settings.offload, trained=False)
    generator.observe()
    return generator


def _made(described: tuple[str, dict[str, Any]], changes: dict[str, Any], device: torch.device,
          dtype: torch.dtype) -> nn.Module:
    import diffusers

    kind, arguments = described
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # a large network would not fit in single precision first
    try:
        with torch.device(device):
            network = getattr(diffusers, kind)(**arguments | changes)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():  # layers that start at zero give no gradients to what is before them
                parameter.normal_(std=0.02)
    return network.to(device)
