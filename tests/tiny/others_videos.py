"""Small pipelines of videos that no recipe names: Mochi, Allegro, Latte, SkyReels 2, EasyAnimate."""

from pathlib import Path

import torch

from tests.tiny.parts import chat, flow_unipc, image_vae, lively, qwen25_sizes
from tests.tiny.texts import t5, word_tokenizer
from tests.tiny.videos import wan_vae


def build_mochi(folder: Path) -> Path:
    """Its times run backwards: 0 is noise. The pipeline counts on 12 channels of latents."""
    from diffusers import (
        AutoencoderKLMochi,
        FlowMatchEulerDiscreteScheduler,
        MochiPipeline,
        MochiTransformer3DModel,
    )

    torch.manual_seed(50)
    vae = AutoencoderKLMochi(
        encoder_block_out_channels=(32,) * 4, decoder_block_out_channels=(32,) * 4,
        layers_per_block=(0,) * 5, add_attention_block=(False,) * 5, scaling_factor=0.8)
    transformer = lively(MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=16,
        in_channels=12, text_embed_dim=32, time_embed_dim=8))
    MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True), vae=vae, text_encoder=t5(),
        tokenizer=word_tokenizer(), transformer=transformer).save_pretrained(folder)
    return folder


def build_allegro(folder: Path) -> Path:
    """Decodes only after `vae.enable_tiling()`, which is not saved."""
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    torch.manual_seed(51)
    vae = AutoencoderKLAllegro(
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=4, scaling_factor=0.6)
    transformer = lively(AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=48, caption_channels=32, sample_height=4, sample_width=4, sample_frames=2))
    AllegroPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), vae=vae, transformer=transformer,
        scheduler=EulerAncestralDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing="leading", steps_offset=1)).save_pretrained(folder)
    return folder


def build_latte(folder: Path) -> Path:
    from diffusers import DDIMScheduler, LattePipeline, LatteTransformer3DModel

    torch.manual_seed(52)
    transformer = lively(LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, attention_bias=True, sample_size=8, patch_size=2, activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        caption_channels=32, video_length=2))
    LattePipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), vae=image_vae(scaling_factor=0.6), transformer=transformer,
        scheduler=DDIMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear",
                                clip_sample=False)).save_pretrained(folder)
    return folder


def _skyreels(**options):
    from diffusers import SkyReelsV2Transformer3DModel

    return lively(SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=32, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=1024, **options))


def build_skyreels2(folder: Path) -> Path:
    from diffusers import SkyReelsV2Pipeline

    torch.manual_seed(53)
    SkyReelsV2Pipeline(tokenizer=word_tokenizer(), text_encoder=t5(), transformer=_skyreels(), vae=wan_vae(),
                       scheduler=flow_unipc(8.0)).save_pretrained(folder)
    return folder


def build_skyreels2_forcing(folder: Path) -> Path:
    """Diffusion forcing: each latent frame has a time of its own."""
    from diffusers import SkyReelsV2DiffusionForcingPipeline

    torch.manual_seed(54)
    SkyReelsV2DiffusionForcingPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), transformer=_skyreels(), vae=wan_vae(),
        scheduler=flow_unipc(8.0)).save_pretrained(folder)
    return folder


def build_easyanimate(folder: Path) -> Path:
    from diffusers import (
        AutoencoderKLMagvit,
        EasyAnimatePipeline,
        EasyAnimateTransformer3DModel,
        FlowMatchEulerDiscreteScheduler,
    )
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(55)
    vae = AutoencoderKLMagvit(
        block_out_channels=(8,) * 4, latent_channels=4, layers_per_block=1, norm_num_groups=2,
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3), spatial_group_norm=False,
        scaling_factor=0.6)
    transformer = lively(EasyAnimateTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=32, num_layers=2, mmdit_layers=2, sample_width=16, sample_height=16, patch_size=2))
    encoder = Qwen2VLForConditionalGeneration(Qwen2VLConfig(
        text_config=qwen25_sizes(2), vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 32, "num_heads": 2}))
    EasyAnimatePipeline(
        vae=vae, text_encoder=encoder, tokenizer=chat(word_tokenizer()), transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0)).save_pretrained(folder)
    return folder
