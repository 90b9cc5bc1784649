"""Small pipelines of U-Nets, and of pixels, that no recipe names."""

from pathlib import Path

import torch

from tests.tiny.images import unet
from tests.tiny.parts import flow_euler, image_vae, lively
from tests.tiny.texts import (
    chat_tokenizer,
    clip_encoder,
    clip_tokenizer,
    qwen3_processor,
    qwen3_vl,
    qwen3_vl_writer,
    t5,
    template_tokenizer,
    word_tokenizer,
)


def build_animatediff(folder: Path) -> Path:
    """Stable Diffusion 1.5 with motion between its frames."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler, MotionAdapter
    from transformers import CLIPTextModel

    torch.manual_seed(80)
    tokenizer = clip_tokenizer()
    motion = MotionAdapter(block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2,
                           motion_num_attention_heads=2)
    AnimateDiffPipeline(
        unet=unet(), vae=image_vae(scaling_factor=0.6), text_encoder=clip_encoder(CLIPTextModel, tokenizer),
        tokenizer=tokenizer, motion_adapter=lively(motion),
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False,
                                steps_offset=1)).save_pretrained(folder)
    return folder


def build_latent_consistency(folder: Path) -> Path:
    """Few steps: its network sees the scale of guidance."""
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler
    from transformers import CLIPTextModel

    torch.manual_seed(81)
    tokenizer = clip_tokenizer()
    LatentConsistencyModelPipeline(
        unet=unet(time_cond_proj_dim=16), vae=image_vae(scaling_factor=0.6),
        text_encoder=clip_encoder(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        scheduler=LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(folder)
    return folder


def build_pixels_if(folder: Path) -> Path:
    """DeepFloyd IF's first stage: pixels without a VAE, and a learned variance."""
    from diffusers import DDPMScheduler, IFPipeline

    torch.manual_seed(82)
    IFPipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), unet=lively(unet(
            sample_size=16, in_channels=3, out_channels=6, cross_attention_dim=32, encoder_hid_dim=32)),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True,
                                sample_max_value=1.5),
        safety_checker=None, feature_extractor=None, watermarker=None,
        requires_safety_checker=False).save_pretrained(folder)
    return folder


def build_kandinsky3(folder: Path) -> Path:
    from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet, VQModel

    torch.manual_seed(83)
    network = lively(Kandinsky3UNet(
        in_channels=4, time_embedding_dim=8, groups=2, attention_head_dim=4, layers_per_block=3,
        block_out_channels=(8, 16), cross_attention_dim=8, encoder_hid_dim=32))
    movq = VQModel(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, num_vq_embeddings=12, vq_embed_dim=4,
        norm_num_groups=4, norm_type="spatial", scaling_factor=0.6)
    Kandinsky3Pipeline(
        tokenizer=word_tokenizer(), text_encoder=t5(), unet=network, movq=movq,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False,
                                prediction_type="epsilon")).save_pretrained(folder)
    return folder


def build_text_to_video_sd(folder: Path) -> Path:
    from diffusers import DDIMScheduler, TextToVideoSDPipeline, UNet3DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(84)
    tokenizer = clip_tokenizer()
    network = lively(UNet3DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16, attention_head_dim=4, norm_num_groups=4))
    TextToVideoSDPipeline(
        vae=image_vae(scaling_factor=0.6), text_encoder=clip_encoder(CLIPTextModel, tokenizer), tokenizer=tokenizer,
        unet=network, scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                              clip_sample=False, set_alpha_to_one=False)).save_pretrained(folder)
    return folder


def _t5_gemma():
    from transformers.models.t5gemma.configuration_t5gemma import T5GemmaConfig, T5GemmaModuleConfig
    from transformers.models.t5gemma.modeling_t5gemma import T5GemmaEncoder

    sizes = T5GemmaModuleConfig(
        vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, initializer_range=0.2)
    whole = T5GemmaConfig(encoder=sizes, decoder=sizes, vocab_size=200, is_encoder_decoder=False)
    encoder = T5GemmaEncoder(whole.encoder)
    encoder.config = whole  # as published: loading reads the encoder's part of it
    return encoder


def build_prx(folder: Path) -> Path:
    """Its own class does not load it where nothing else has imported its package; `DiffusionPipeline` does."""
    from diffusers import PRXPipeline, PRXTransformer2DModel

    torch.manual_seed(85)
    transformer = lively(PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=32, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[8, 8]))
    PRXPipeline(
        transformer=transformer, scheduler=flow_euler(shift=3.0), text_encoder=_t5_gemma(),
        tokenizer=word_tokenizer(), vae=image_vae(scaling_factor=1.5, shift_factor=0.06),
        default_sample_size=16).save_pretrained(folder)
    return folder


def build_prx_pixel(folder: Path) -> Path:
    """Pixels without a VAE; the network predicts the image itself, and noise is larger than one."""
    from diffusers import PRXPixelPipeline, PRXTransformer2DModel

    torch.manual_seed(86)
    transformer = lively(PRXTransformer2DModel(
        in_channels=3, patch_size=4, context_in_dim=16, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2,
        axes_dim=[8, 8], bottleneck_size=8))
    PRXPixelPipeline(
        transformer=transformer, scheduler=flow_euler(shift=3.0), text_encoder=qwen3_vl().language_model,
        tokenizer=word_tokenizer(), default_sample_size=16, prompt_max_tokens=16).save_pretrained(folder)
    return folder


def build_dreamlite(folder: Path) -> Path:
    """The source image, or zeros, stands at the right of the latents; one prompt at a time."""
    from diffusers import AutoencoderTiny, DreamLitePipeline, DreamLiteUNetModel

    torch.manual_seed(87)
    network = lively(DreamLiteUNetModel(
        in_channels=4, out_channels=4, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=16, attention_head_dim=4, addition_embed_type="time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16))
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=4, scaling_factor=0.6)
    pipeline = DreamLitePipeline(
        text_encoder=qwen3_vl_writer(), tokenizer=chat_tokenizer(), processor=qwen3_processor(chat_tokenizer()),
        vae=vae, unet=network, scheduler=flow_euler(use_dynamic_shifting=True))
    header = template_tokenizer(pipeline.prompt_template_encode_generate,
                                pipeline.prompt_template_encode_generate_start_idx)
    pipeline.register_modules(tokenizer=header)
    pipeline.save_pretrained(folder)
    return folder


def build_amused(folder: Path) -> Path:
    """To be refused: it fills in tokens of a codebook, and has neither noise nor velocity."""
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(88)
    tokenizer = clip_tokenizer()
    network = lively(UVit2DModel(
        hidden_size=16, cond_embed_dim=16, micro_cond_encode_dim=4, micro_cond_embed_dim=20, encoder_hidden_size=16,
        vocab_size=32, codebook_size=24, in_channels=16, block_out_channels=16, num_res_blocks=1, block_num_heads=2,
        num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, sample_size=8))
    codes = VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=8, num_vq_embeddings=24, norm_num_groups=4,
        mid_block_add_attention=False, lookup_from_codebook=True)
    AmusedPipeline(
        vqvae=codes, tokenizer=tokenizer, text_encoder=clip_encoder(CLIPTextModelWithProjection, tokenizer),
        transformer=network, scheduler=AmusedScheduler(mask_token_id=31)).save_pretrained(folder)
    return folder
