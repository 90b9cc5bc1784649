"""Small pipelines of images with random weights, of the real classes."""

from pathlib import Path

import torch

from tests.tiny.parts import image_vae
from tests.tiny.texts import clip_encoder, clip_tokenizer, t5


def unet(**changes):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**({
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16), "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 16, "attention_head_dim": 2,
        "norm_num_groups": 4} | changes))


def build_sd3(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(1)
    tokenizer = clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, pooled_projection_dim=32,
        pos_embed_max_size=8)
    with torch.no_grad():  # the output layer starts at zero otherwise, which hides many mistakes
        transformer.proj_out.weight.normal_(std=0.1)
        for parameter in transformer.norm_out.parameters():
            parameter.normal_(std=0.1)
    StableDiffusion3Pipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip_encoder(CLIPTextModelWithProjection, tokenizer), tokenizer=tokenizer,
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, tokenizer), tokenizer_2=tokenizer,
        text_encoder_3=t5(1400), tokenizer_3=tokenizer).save_pretrained(folder)
    return folder


def build_flux(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    torch.manual_seed(4)
    tokenizer = clip_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True)
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.1)
        for parameter in transformer.norm_out.parameters():
            parameter.normal_(std=0.1)
    FluxPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(scaling_factor=1.5, shift_factor=0.06), text_encoder=clip_encoder(CLIPTextModel, tokenizer),
        tokenizer=tokenizer, text_encoder_2=t5(1400), tokenizer_2=tokenizer).save_pretrained(folder)
    return folder


def build_sdxl(folder: Path, width: int = 16) -> Path:
    """width: of the second text encoder; it is told from the first by it in single files."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(2)
    tokenizer = clip_tokenizer()
    StableDiffusionXLPipeline(
        unet=unet(cross_attention_dim=16 + width, addition_embed_type="text_time", addition_time_embed_dim=4,
                   projection_class_embeddings_input_dim=width + 24),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                         timestep_spacing="leading", steps_offset=1),
        vae=image_vae(), text_encoder=clip_encoder(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, tokenizer, width),
        tokenizer_2=tokenizer).save_pretrained(folder)
    return folder


def build_sd15(folder: Path, prediction_type: str = "epsilon") -> Path:
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    torch.manual_seed(3)
    tokenizer = clip_tokenizer()
    StableDiffusionPipeline(
        unet=unet(), vae=image_vae(), text_encoder=clip_encoder(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    return folder
