"""Small pipelines of FLUX.2, FLUX.1 Kontext and Chroma."""

from pathlib import Path

import torch

from tests.tiny.parts import flow_euler, image_vae, lively
from tests.tiny.texts import chat_tokenizer, clip_encoder, clip_tokenizer, mistral3, qwen3, t5, word_tokenizer


def flux2_vae():
    """Latents are normalised by the statistics of a batch normalisation, over 2x2 patches: 16 channels here."""
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, layers_per_block=1)
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def _flux2_transformer(guidance_embeds: bool):
    from diffusers import Flux2Transformer2DModel

    return lively(Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance_embeds), "proj_out", "norm_out")


def _flux2_scheduler():
    return flow_euler(use_dynamic_shifting=True, shift=3.0)


def build_flux2_klein(folder: Path) -> Path:
    """With as many layers of text as the pipeline wants of its encoder (it reads the 9th, 18th and 27th)."""
    from diffusers import Flux2KleinPipeline

    torch.manual_seed(24)
    Flux2KleinPipeline(
        scheduler=_flux2_scheduler(), vae=flux2_vae(), text_encoder=qwen3(28, 16), tokenizer=chat_tokenizer(),
        transformer=_flux2_transformer(guidance_embeds=False)).save_pretrained(folder)
    return folder


def build_flux2_dev(folder: Path) -> Path:
    """With as many layers of text as the pipeline wants of its encoder (it reads the 10th, 20th and 30th)."""
    from diffusers import Flux2Pipeline
    from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

    torch.manual_seed(25)
    Flux2Pipeline(
        scheduler=_flux2_scheduler(), vae=flux2_vae(), text_encoder=mistral3(31, 16),
        tokenizer=chat_tokenizer(SYSTEM_MESSAGE),
        transformer=_flux2_transformer(guidance_embeds=True)).save_pretrained(folder)
    return folder


def build_flux_kontext(folder: Path) -> Path:
    from diffusers import FluxKontextPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    torch.manual_seed(27)
    tokenizer = clip_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True)
    FluxKontextPipeline(
        scheduler=flow_euler(shift=3.0, use_dynamic_shifting=True),
        vae=image_vae(scaling_factor=1.5, shift_factor=0.06), text_encoder=clip_encoder(CLIPTextModel, tokenizer),
        tokenizer=tokenizer, text_encoder_2=t5(1400), tokenizer_2=tokenizer,
        transformer=lively(transformer, "proj_out", "norm_out")).save_pretrained(folder)
    return folder


def build_chroma(folder: Path) -> Path:
    from diffusers import ChromaPipeline, ChromaTransformer2DModel

    torch.manual_seed(28)
    transformer = ChromaTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=16,
        approximator_layers=1)
    ChromaPipeline(
        scheduler=flow_euler(shift=3.0), vae=image_vae(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=t5(), tokenizer=word_tokenizer(),
        transformer=lively(transformer, "proj_out")).save_pretrained(folder)
    return folder
