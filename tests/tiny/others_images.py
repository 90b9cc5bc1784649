"""Small pipelines of images that no recipe names: PixArt-Alpha, CogView 3 Plus, Lumina, Bria, LongCat, and further."""

from pathlib import Path

import torch

from tests.tiny.parts import awake, chat, image_vae, lively, qwen25_vl, qwen_processor
from tests.tiny.texts import t5, template_tokenizer, word_tokenizer


def build_pixart_alpha(folder: Path) -> Path:
    """At the sample size at which the pipeline tells its transformer the resolution and the ratio of the sides."""
    from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    torch.manual_seed(60)
    transformer = awake(PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=24, sample_size=128, caption_channels=32, use_additional_conditions=True))
    PixArtAlphaPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), vae=image_vae(scaling_factor=0.6), transformer=transformer,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02)).save_pretrained(folder)
    return folder


def build_cogview3(folder: Path) -> Path:
    from diffusers import CogVideoXDDIMScheduler, CogView3PlusPipeline, CogView3PlusTransformer2DModel

    torch.manual_seed(61)
    transformer = lively(CogView3PlusTransformer2DModel(
        patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2, out_channels=4,
        text_embed_dim=32, time_embed_dim=8, condition_dim=4, pos_embed_max_size=16, sample_size=8))
    CogView3PlusPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), vae=image_vae(scaling_factor=0.6), transformer=transformer,
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False,
            rescale_betas_zero_snr=True, snr_shift_scale=4.0)).save_pretrained(folder)
    return folder


def build_lumina(folder: Path) -> Path:
    """The first of its name: its time runs backwards, as the second's does, and it learns a variance."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LuminaNextDiT2DModel, LuminaPipeline
    from transformers import GemmaConfig, GemmaModel

    torch.manual_seed(62)
    transformer = lively(LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=2, num_attention_heads=2,
        num_kv_heads=1, multiple_of=8, learn_sigma=True, qk_norm=True, cross_attention_dim=32),
        "pad_token")  # the class leaves it as it finds the memory
    encoder = GemmaModel(GemmaConfig(
        vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, initializer_range=0.2))
    LuminaPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), vae=image_vae(scaling_factor=0.6),
        text_encoder=encoder, tokenizer=word_tokenizer()).save_pretrained(folder)
    return folder


def build_bria(folder: Path) -> Path:
    from diffusers import BriaPipeline, BriaTransformer2DModel, FlowMatchEulerDiscreteScheduler

    torch.manual_seed(63)
    transformer = lively(BriaTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=[4, 4, 8]))
    BriaPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(scaling_factor=1.5, shift_factor=0.06), text_encoder=t5(),
        tokenizer=word_tokenizer()).save_pretrained(folder)
    return folder


def build_longcat(folder: Path) -> Path:
    """The pipeline counts on 16 channels of latents."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LongCatImagePipeline, LongCatImageTransformer2DModel

    torch.manual_seed(64)
    transformer = lively(LongCatImageTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=[4, 4, 8]))
    tokenizer = chat(word_tokenizer())
    LongCatImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=image_vae(latent_channels=16, scaling_factor=1.5, shift_factor=0.06), text_encoder=qwen25_vl(),
        tokenizer=tokenizer, text_processor=qwen_processor(tokenizer), transformer=transformer).save_pretrained(folder)
    return folder


def build_hunyuan_image(folder: Path) -> Path:
    """Guided by two guiders: one of them for prompts that quote words."""
    from diffusers import (
        AdaptiveProjectedMixGuidance,
        AutoencoderKLHunyuanImage,
        FlowMatchEulerDiscreteScheduler,
        HunyuanImagePipeline,
        HunyuanImageTransformer2DModel,
    )
    from transformers import ByT5Tokenizer, T5Config, T5EncoderModel

    torch.manual_seed(65)
    transformer = lively(HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
        num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=32, text_embed_2_dim=32, rope_axes_dim=(4, 4)))
    vae = AutoencoderKLHunyuanImage(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32), layers_per_block=1,
        spatial_compression_ratio=2, sample_size=16, scaling_factor=0.75)
    glyphs = T5EncoderModel(T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                     is_encoder_decoder=False))
    pipeline = HunyuanImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0), vae=vae, text_encoder=qwen25_vl(3),
        tokenizer=word_tokenizer(), text_encoder_2=glyphs, tokenizer_2=ByT5Tokenizer(), transformer=transformer,
        guider=AdaptiveProjectedMixGuidance(guidance_scale=3.5, enabled=True),
        ocr_guider=AdaptiveProjectedMixGuidance(guidance_scale=3.5, enabled=True))
    header = template_tokenizer(pipeline.prompt_template_encode, pipeline.prompt_template_encode_start_idx)
    pipeline.register_modules(tokenizer=header)
    pipeline.save_pretrained(folder)
    return folder


def build_hunyuan_dit(folder: Path) -> Path:
    from diffusers import DDPMScheduler, HunyuanDiT2DModel, HunyuanDiTPipeline
    from transformers import BertConfig, BertModel

    torch.manual_seed(66)
    transformer = lively(HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=2, hidden_size=16,
        mlp_ratio=2.0, cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, in_channels=4,
        activation_fn="gelu-approximate"))
    encoder = BertModel(BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                   intermediate_size=32, max_position_embeddings=80))
    HunyuanDiTPipeline(
        vae=image_vae(scaling_factor=0.6), text_encoder=encoder, tokenizer=word_tokenizer(), transformer=transformer,
        scheduler=DDPMScheduler(beta_start=0.00085, beta_end=0.018, beta_schedule="scaled_linear",
                                prediction_type="v_prediction", steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, text_encoder_2=t5(),
        tokenizer_2=word_tokenizer()).save_pretrained(folder)
    return folder


def build_omnigen(folder: Path) -> Path:
    """Reads words in the transformer itself, and counts on a VAE that makes sides 8 times smaller.

    Prompts of unequal length in one batch get the positions of the first: the class's own mistake.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, OmniGenPipeline, OmniGenTransformer2DModel

    torch.manual_seed(67)
    transformer = lively(OmniGenTransformer2DModel(
        hidden_size=16, num_attention_heads=4, num_key_value_heads=4, intermediate_size=32, num_layers=2,
        in_channels=4, time_step_dim=8, vocab_size=200, pad_token_id=0, pos_embed_max_size=16,
        rope_scaling={"long_factor": [1, 2], "short_factor": [1, 2]}))
    OmniGenPipeline(
        transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
        vae=image_vae(block_out_channels=(8,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                      up_block_types=("UpDecoderBlock2D",) * 4, scaling_factor=0.6),
        tokenizer=word_tokenizer()).save_pretrained(folder)
    return folder
