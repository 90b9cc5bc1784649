"""Small pipelines of the Qwen-Image families, Z-Image and Krea 2."""

import inspect
from pathlib import Path

import torch

from tests.tiny.parts import chat, flow_euler, image_vae, lively, qwen25_vl, qwen_processor
from tests.tiny.texts import (
    chat_tokenizer,
    qwen3,
    qwen3_processor,
    qwen3_vl,
    qwen3_vl_writer,
    seeing,
    template_tokenizer,
)


def build_z_image(folder: Path) -> Path:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    torch.manual_seed(20)
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[4, 4, 8], axes_lens=[256, 64, 64])
    ZImagePipeline(
        scheduler=flow_euler(shift=3.0), vae=image_vae(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=qwen3(), tokenizer=chat_tokenizer(),
        transformer=lively(transformer, "all_final_layer")).save_pretrained(folder)
    return folder


def _qwen_vae():
    from diffusers import AutoencoderKLQwenImage

    return AutoencoderKLQwenImage(base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True],
                                  latents_mean=[0.1, -0.2, 0.3, 0.05], latents_std=[1.5, 0.5, 1.2, 2.0])


def _qwen_scheduler():
    return flow_euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256,
                          max_image_seq_len=8192, shift_terminal=0.02, time_shift_type="exponential")


def _qwen_transformer(**options):
    from diffusers import QwenImageTransformer2DModel

    return lively(QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6), **options), "proj_out", "norm_out")


def _template(pipeline_class) -> str:
    """The text that a pipeline puts around prompts, which it keeps on its instances only."""
    empty = pipeline_class(**dict.fromkeys(inspect.signature(pipeline_class).parameters))
    return empty.prompt_template_encode


def build_qwen_image(folder: Path) -> Path:
    from diffusers import QwenImagePipeline

    torch.manual_seed(21)
    QwenImagePipeline(
        scheduler=_qwen_scheduler(), vae=_qwen_vae(), text_encoder=qwen25_vl(),
        tokenizer=template_tokenizer(_template(QwenImagePipeline), 34),
        transformer=_qwen_transformer()).save_pretrained(folder)
    return folder


def build_qwen_image_edit(folder: Path) -> Path:
    from diffusers import QwenImageEditPipeline

    torch.manual_seed(22)
    return _edit(folder, QwenImageEditPipeline, _qwen_transformer())


def build_qwen_image_edit_plus(folder: Path) -> Path:
    """As the checkpoints of 2511, whose source tokens get time 0."""
    from diffusers import QwenImageEditPlusPipeline

    torch.manual_seed(23)
    return _edit(folder, QwenImageEditPlusPipeline, _qwen_transformer(zero_cond_t=True))


def _edit(folder: Path, pipeline_class, transformer) -> Path:
    template = _template(pipeline_class).replace("<|vision_start|><|image_pad|><|vision_end|>", "")
    tokenizer, ids = seeing(chat(template_tokenizer(template, 64)))
    pipeline_class(
        scheduler=_qwen_scheduler(), vae=_qwen_vae(), text_encoder=qwen25_vl(**ids), tokenizer=tokenizer,
        processor=qwen_processor(tokenizer), transformer=transformer).save_pretrained(folder)
    return folder


def build_krea2(folder: Path) -> Path:
    from diffusers import Krea2Pipeline, Krea2Transformer2DModel

    torch.manual_seed(26)
    transformer = Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, timestep_embed_dim=8, text_hidden_dim=16, num_text_layers=3, text_num_attention_heads=2,
        text_num_key_value_heads=1, text_intermediate_size=16, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2))
    empty = Krea2Pipeline(None, None, None, None, None)
    template = empty.prompt_template_encode_prefix + "{}" + empty.prompt_template_encode_suffix
    Krea2Pipeline(
        scheduler=flow_euler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
                                 max_image_seq_len=6400),
        vae=_qwen_vae(), text_encoder=qwen3_vl(), tokenizer=template_tokenizer(template, 34),
        transformer=lively(transformer, "final_layer"), text_encoder_select_layers=(0, 1, 2)).save_pretrained(folder)
    return folder


def build_qwen_image21(folder: Path) -> Path:
    """Of images with transparency, and words and source images that are read before the noisy image."""
    from diffusers import AutoencoderKLQwenImage21, QwenImage21Pipeline, QwenImage21Transformer2DModel

    torch.manual_seed(29)
    vae = AutoencoderKLQwenImage21(
        base_dim=8, decoder_base_dim=8, z_dim=4, dim_mult=[1] * 5, num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.05], latents_std=[1.5, 0.5, 1.2, 2.0])
    transformer = QwenImage21Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2, context_in_dim=16,
        axes_dims_rope=(4, 6, 6))
    tokenizer, ids = seeing(chat_tokenizer(
        "<|im_start|>system Comprehend and analyze the provided prompt.<|im_end|> <|im_start|>user "
        "<|im_start|>assistant <image1>"))
    QwenImage21Pipeline(
        scheduler=_qwen_scheduler(), vae=vae, text_encoder=qwen3_vl_writer(**ids), processor=qwen3_processor(tokenizer),
        transformer=lively(transformer, "proj_out", "norm_out")).save_pretrained(folder)
    return folder
