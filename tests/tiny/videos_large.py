"""Small pipelines of the large video families: HunyuanVideo 1.5 and LTX-2."""

import inspect
from pathlib import Path

import torch

from tests.tiny.parts import awake, chat, qwen25_sizes
from tests.tiny.texts import template_tokenizer, word_tokenizer


def build_hunyuan15(folder: Path) -> Path:
    """18 MB: its second text projection is 2048 wide in the class."""
    from diffusers import (
        AutoencoderKLHunyuanVideo15,
        ClassifierFreeGuidance,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideo15Pipeline,
        HunyuanVideo15Transformer3DModel,
    )
    from transformers import (
        ByT5Tokenizer,
        Qwen2_5_VLTextConfig,
        Qwen2_5_VLTextModel,
        T5Config,
        T5EncoderModel,
    )

    torch.manual_seed(20)
    transformer = awake(HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=1,
        num_refiner_layers=1, mlp_ratio=2.0, patch_size=1, patch_size_t=1, text_embed_dim=32, text_embed_2_dim=32,
        image_embed_dim=16, rope_axes_dim=(4, 4, 4), target_size=16, task_type="t2v"))
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(16, 16), layers_per_block=1, spatial_compression_ratio=2,
        temporal_compression_ratio=2, scaling_factor=1.6)
    glyphs = T5EncoderModel(T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                     is_encoder_decoder=False))
    encoder = Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**qwen25_sizes()))
    encoding = inspect.signature(HunyuanVideo15Pipeline._get_mllm_prompt_embeds)
    tokenizer = template_tokenizer(encoding.parameters["system_message"].default, 108)  # so many tokens are cut off
    HunyuanVideo15Pipeline(
        text_encoder=encoder, tokenizer=chat(tokenizer), transformer=transformer, vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), text_encoder_2=glyphs, tokenizer_2=ByT5Tokenizer(),
        guider=ClassifierFreeGuidance(guidance_scale=6.0)).save_pretrained(folder)
    return folder


def build_ltx2(folder: Path) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, LTX2Pipeline, LTX2VideoTransformer3DModel
    from diffusers.pipelines.ltx2 import LTX2TextConnectors
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(21)
    rope = {"rope_double_precision": False, "rope_type": "split"}
    transformer = awake(LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
        audio_cross_attention_dim=8, num_layers=2, caption_channels=16, **rope))
    heads = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 1, "num_learnable_registers": 8}
    connectors = awake(LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=3, connector_rope_base_seq_len=32, **rope,
        **{f"{kind}_connector_{key}": value for kind in ("video", "audio") for key, value in heads.items()}))
    encoder = Gemma3ForConditionalGeneration(Gemma3Config(
        text_config={"vocab_size": 200, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
                     "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "initializer_range": 0.2},
        vision_config={"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                       "image_size": 8, "patch_size": 4},
        mm_tokens_per_image=4))
    video, audio, vocoder = _ltx2_decoders()
    LTX2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_image_seq_len=1024, max_image_seq_len=4096, base_shift=0.95,
            max_shift=2.05, shift_terminal=0.1),
        vae=video, audio_vae=audio, text_encoder=encoder, tokenizer=word_tokenizer(), connectors=connectors,
        transformer=transformer, vocoder=vocoder).save_pretrained(folder)
    return folder


def _ltx2_decoders():
    """Of images, of sound's spectra, and from spectra to sound."""
    from diffusers import AutoencoderKLLTX2Audio, AutoencoderKLLTX2Video
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    video = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), down_block_types=("LTX2VideoDownBlock3D",),
        downsample_type=("spatiotemporal",), upsample_type=("spatiotemporal",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=1,
        decoder_causal=False)
    audio = AutoencoderKLLTX2Audio(base_channels=4, ch_mult=(1,), num_res_blocks=1, resolution=32, latent_channels=2,
                                   mel_bins=8)
    for statistics in (video, audio):
        statistics.latents_mean.normal_()
        statistics.latents_std.uniform_(0.5, 2.0)
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000)
    return video, audio, vocoder
