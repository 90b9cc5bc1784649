"""Small pipelines of videos with random weights, of the real classes."""

from pathlib import Path

import torch

from tests.tiny.texts import clip_encoder, clip_tokenizer, t5, template_tokenizer, umt5, word_tokenizer


def woken(transformer):
    """The output layer starts small or at zero otherwise, which hides many mistakes."""
    with torch.no_grad():
        for parameter in transformer.proj_out.parameters():
            parameter.normal_(std=0.1)
    return transformer


def wan_vae():
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
                            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 1.0, 2.0],
                            scale_factor_temporal=2, scale_factor_spatial=2)


def wan_transformer(seed: int = 0, channels: int = 4, **changes):
    from diffusers import WanTransformer3DModel

    torch.manual_seed(seed)
    return woken(WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels, out_channels=4,
        text_dim=32, freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=1024, **changes))


def build_wan(folder: Path, **options) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    torch.manual_seed(5)
    encoder = umt5()
    WanPipeline(tokenizer=word_tokenizer(), text_encoder=encoder, vae=wan_vae(), transformer=wan_transformer(),
                scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **options).save_pretrained(folder)
    return folder


def build_wan_image(folder: Path) -> Path:
    """With a CLIP view of the image, as Wan 2.1 has it."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanImageToVideoPipeline
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(9)
    encoder = umt5()
    eyes = CLIPVisionModel(CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                                            num_attention_heads=2, image_size=16, patch_size=8))
    WanImageToVideoPipeline(
        tokenizer=word_tokenizer(), text_encoder=encoder, vae=wan_vae(), image_encoder=eyes,
        image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16),
        transformer=wan_transformer(2, channels=10, image_dim=16, added_kv_proj_dim=24),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)).save_pretrained(folder)
    return folder


def build_ltx(folder: Path) -> Path:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    torch.manual_seed(6)
    vae = AutoencoderKLLTXVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1), patch_size=1, patch_size_t=1,
        spatio_temporal_scaling=(True, True, False, False), decoder_spatio_temporal_scaling=(True, True, False, False))
    vae.latents_mean.normal_()
    vae.latents_std.uniform_(0.5, 2.0)
    transformer = woken(LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=2, caption_channels=32))
    LTXPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05,
                                                  shift_terminal=0.1),
        vae=vae, text_encoder=t5(), tokenizer=word_tokenizer(), transformer=transformer).save_pretrained(folder)
    return folder


def build_hunyuan(folder: Path) -> Path:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from transformers import CLIPTextModel, LlamaConfig, LlamaModel

    torch.manual_seed(10)
    video = clip_encoder(CLIPTextModel, clip_tokenizer(), length=77)
    torch.manual_seed(7)
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        mid_block_add_attention=False)
    transformer = woken(HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, patch_size=1, patch_size_t=1, text_embed_dim=32, pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4)))
    llama = LlamaModel(LlamaConfig(vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=3,
                                   num_attention_heads=2, max_position_embeddings=1024))
    HunyuanVideoPipeline(
        text_encoder=llama, tokenizer=template_tokenizer(DEFAULT_PROMPT_TEMPLATE["template"], 95),
        transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0), text_encoder_2=video,
        tokenizer_2=clip_tokenizer()).save_pretrained(folder)
    return folder


def build_cogvideox(folder: Path, patch_size_t: int | None = None) -> Path:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(8)
    vae = AutoencoderKLCogVideoX(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        sample_height=256, sample_width=256, temporal_compression_ratio=4)
    transformer = woken(CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=8,
        text_embed_dim=32, num_layers=2, sample_width=4, sample_height=4, sample_frames=9, patch_size=2,
        patch_size_t=patch_size_t, max_text_seq_length=8, use_rotary_positional_embeddings=True,
        temporal_compression_ratio=4))
    CogVideoXPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), vae=vae, transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing",
                                         clip_sample=False, rescale_betas_zero_snr=True,
                                         snr_shift_scale=3.0)).save_pretrained(folder)
    return folder
