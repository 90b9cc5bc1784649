"""Small pipelines of Sana, Lumina 2, AuraFlow, CogView 4, Kandinsky 5, HiDream and PixArt-Sigma."""

from pathlib import Path

import torch

from tests.tiny.parts import chat, flow_dpm, flow_euler, image_vae, lively, qwen25_vl, qwen_processor
from tests.tiny.texts import (
    chat_tokenizer,
    clip_encoder,
    clip_tokenizer,
    gemma2,
    glm,
    llama,
    t5,
    template_tokenizer,
    umt5,
    word_tokenizer,
)

EIGHTH = {"block_out_channels": (8,) * 4, "down_block_types": ("DownEncoderBlock2D",) * 4,
          "up_block_types": ("UpDecoderBlock2D",) * 4}  # where the pipeline takes that size of latents for granted


def build_sana(folder: Path) -> Path:
    from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel

    torch.manual_seed(30)
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), upsample_block_type="interpolate",
        downsample_block_type="Conv", decoder_norm_types="rms_norm", decoder_act_fns="silu", scaling_factor=0.41)
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=8,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
        sample_size=8, patch_size=1)
    SanaPipeline(
        tokenizer=word_tokenizer(), text_encoder=gemma2(), vae=vae, scheduler=flow_dpm(3.0),
        transformer=lively(transformer, "proj_out", "scale_shift_table")).save_pretrained(folder)
    return folder


def build_lumina2(folder: Path) -> Path:
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    torch.manual_seed(31)
    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(64, 16, 16),
        cap_feat_dim=32)
    around = Lumina2Pipeline(None, None, None, None, None).system_prompt + " <Prompt Start>"
    Lumina2Pipeline(
        transformer=lively(transformer, "norm_out"), scheduler=flow_euler(shift=6.0),
        vae=image_vae(scaling_factor=0.36, shift_factor=0.11, **EIGHTH), text_encoder=gemma2(),
        tokenizer=chat_tokenizer(around)).save_pretrained(folder)
    return folder


def build_aura_flow(folder: Path) -> Path:
    from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel

    torch.manual_seed(32)
    transformer = AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=32, caption_projection_dim=16, out_channels=4,
        pos_embed_max_size=64)
    AuraFlowPipeline(
        tokenizer=word_tokenizer(), text_encoder=umt5(), vae=image_vae(scaling_factor=0.13),
        transformer=lively(transformer, "proj_out", "norm_out"),
        scheduler=flow_euler(shift=1.73)).save_pretrained(folder)
    return folder


def build_cogview4(folder: Path) -> Path:
    from diffusers import CogView4Pipeline, CogView4Transformer2DModel

    torch.manual_seed(33)
    transformer = CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, pos_embed_max_size=16, sample_size=8,
        rope_axes_dim=(8, 8))
    tokenizer = word_tokenizer()
    tokenizer.padding_side = "left"
    CogView4Pipeline(
        tokenizer=tokenizer, text_encoder=glm(), vae=image_vae(scaling_factor=1.5, shift_factor=0.06),
        transformer=lively(transformer, "proj_out", "norm_out"),
        scheduler=flow_euler(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=256,
                             max_image_seq_len=4096, time_shift_type="linear")).save_pretrained(folder)
    return folder


def build_kandinsky5_image(folder: Path) -> Path:
    from diffusers import Kandinsky5T2IPipeline, Kandinsky5Transformer3DModel
    from transformers import CLIPTextModel

    torch.manual_seed(34)
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=32, in_text_dim2=16, time_dim=16, out_visual_dim=4, patch_size=(1, 2, 2),
        model_dim=16, ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(2, 2, 4), visual_cond=False)
    template = Kandinsky5T2IPipeline(*[None] * 7).prompt_template
    Kandinsky5T2IPipeline(
        transformer=lively(transformer, "out_layer"), vae=image_vae(scaling_factor=0.36, **EIGHTH),
        text_encoder=qwen25_vl(), tokenizer=qwen_processor(chat(template_tokenizer(template, 40))),
        text_encoder_2=clip_encoder(CLIPTextModel, clip_tokenizer(), length=77), tokenizer_2=clip_tokenizer(),
        scheduler=flow_euler(shift=3.0)).save_pretrained(folder)
    return folder


def build_hidream(folder: Path) -> Path:
    from diffusers import HiDreamImagePipeline, HiDreamImageTransformer2DModel
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(35)
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_channels=[32, 32], text_emb_dim=32, num_routed_experts=4,
        num_activated_experts=2, axes_dims_rope=(4, 2, 2), max_resolution=(16, 16), llama_layers=(0, 1))
    tokenizer = clip_tokenizer()
    HiDreamImagePipeline(
        scheduler=flow_euler(shift=3.0), vae=image_vae(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=clip_encoder(CLIPTextModelWithProjection, tokenizer), tokenizer=tokenizer,
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, tokenizer), tokenizer_2=tokenizer,
        text_encoder_3=t5(), tokenizer_3=word_tokenizer(), text_encoder_4=llama(), tokenizer_4=word_tokenizer(),
        transformer=lively(transformer, "final_layer")).save_pretrained(folder)
    return folder


def build_pixart_sigma(folder: Path) -> Path:
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    torch.manual_seed(36)
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=8, caption_channels=32, use_additional_conditions=False)
    PixArtSigmaPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), vae=image_vae(scaling_factor=0.13),
        transformer=lively(transformer, "proj_out", "scale_shift_table"),
        scheduler=DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02)).save_pretrained(folder)
    return folder
