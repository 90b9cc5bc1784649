"""Small pipelines of further video families: Sana-Video, Kandinsky 5, Cosmos-Predict 2.5."""

from pathlib import Path

import torch

from tests.tiny.parts import Guard, awake, chat, flow_dpm, flow_unipc, qwen25_vl, qwen_processor
from tests.tiny.texts import clip_encoder, clip_tokenizer, template_tokenizer, word_tokenizer
from tests.tiny.videos import wan_vae


def build_sana_video(folder: Path) -> Path:
    from diffusers import SanaVideoPipeline, SanaVideoTransformer3DModel
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(40)
    transformer = awake(SanaVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, num_attention_heads=2, attention_head_dim=12,
        num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24, caption_channels=32,
        sample_size=30, patch_size=(1, 2, 2), rope_max_seq_len=32))
    encoder = Gemma2Model(Gemma2Config(
        vocab_size=200, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, initializer_range=0.2))
    SanaVideoPipeline(tokenizer=word_tokenizer(), text_encoder=encoder, vae=wan_vae(), transformer=transformer,
                      scheduler=flow_dpm(8.0)).save_pretrained(folder)
    return folder


def build_kandinsky5_video(folder: Path) -> Path:
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        Kandinsky5T2VPipeline,
        Kandinsky5Transformer3DModel,
    )
    from transformers import CLIPTextModel

    torch.manual_seed(41)
    transformer = awake(Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=32, in_text_dim2=16, time_dim=16, out_visual_dim=4, patch_size=(1, 2, 2),
        model_dim=16, ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(2, 2, 4), visual_cond=True))
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        mid_block_add_attention=False, scaling_factor=0.6)
    pipeline = Kandinsky5T2VPipeline(
        transformer=transformer, vae=vae, text_encoder=qwen25_vl(),
        tokenizer=qwen_processor(chat(word_tokenizer())),
        text_encoder_2=clip_encoder(CLIPTextModel, clip_tokenizer(), length=77), tokenizer_2=clip_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0))
    header = template_tokenizer(pipeline.prompt_template, pipeline.prompt_template_encode_start_idx)
    pipeline.register_modules(tokenizer=qwen_processor(chat(header)))
    pipeline.save_pretrained(folder)
    return folder


def build_cosmos25(folder: Path) -> Path:
    """Saved without its guard, which loading must be given: see LOADS."""
    from diffusers import Cosmos2_5_PredictBasePipeline, CosmosTransformer3DModel

    torch.manual_seed(42)
    transformer = awake(CosmosTransformer3DModel(
        in_channels=5, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2, mlp_ratio=2,
        text_embed_dim=64, adaln_lora_dim=4, max_size=(4, 32, 32), patch_size=(1, 2, 2), rope_scale=(2, 1, 1),
        extra_pos_embed_type=None))
    pipeline = Cosmos2_5_PredictBasePipeline(
        text_encoder=qwen25_vl(), tokenizer=chat(word_tokenizer()), transformer=transformer, vae=wan_vae(),
        scheduler=flow_unipc(5.0), safety_checker=Guard())
    pipeline.register_modules(safety_checker=None)
    pipeline.save_pretrained(folder)
    return folder
