"""Small pipelines of Wan 2.2: A14B from words and from an image, TI2V-5B from words and from an image."""

from pathlib import Path

import torch

from tests.tiny.parts import flow_unipc
from tests.tiny.texts import word_tokenizer
from tests.tiny.videos import wan_transformer, wan_vae


def _words():
    """The text encoder and its tokenizer, as keyword arguments."""
    from transformers import UMT5Config, UMT5EncoderModel

    encoder = UMT5EncoderModel(UMT5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                          is_encoder_decoder=False))
    return {"text_encoder": encoder, "tokenizer": word_tokenizer()}


def wan22_vae():
    """As TI2V-5B has it: residual, its pixels folded by two before the first layer."""
    from diffusers import AutoencoderKLWan

    return AutoencoderKLWan(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[True], is_residual=True,
        patch_size=2, in_channels=12, out_channels=12, latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 1.0, 2.0], scale_factor_temporal=2, scale_factor_spatial=4)


def build_wan22(folder: Path) -> Path:
    """Two experts: the second takes over below the boundary."""
    from diffusers import WanPipeline

    torch.manual_seed(30)
    WanPipeline(**_words(), vae=wan_vae(), transformer=wan_transformer(1), transformer_2=wan_transformer(2),
                scheduler=flow_unipc(3.0), boundary_ratio=0.875).save_pretrained(folder)
    return folder


def build_wan22_image(folder: Path) -> Path:
    """Two experts and no image encoder: the image comes in channels only."""
    from diffusers import WanImageToVideoPipeline

    torch.manual_seed(31)
    WanImageToVideoPipeline(
        **_words(), vae=wan_vae(), transformer=wan_transformer(1, channels=10),
        transformer_2=wan_transformer(2, channels=10), scheduler=flow_unipc(3.0),
        boundary_ratio=0.9).save_pretrained(folder)
    return folder


def build_wan22_small(folder: Path) -> Path:
    """TI2V-5B from words: a time for each token."""
    from diffusers import WanPipeline

    torch.manual_seed(32)
    WanPipeline(**_words(), vae=wan22_vae(), transformer=wan_transformer(1), scheduler=flow_unipc(5.0),
                expand_timesteps=True).save_pretrained(folder)
    return folder


def build_wan22_small_image(folder: Path) -> Path:
    """TI2V-5B from an image: the first latent frame is the image's, at time zero."""
    from diffusers import WanImageToVideoPipeline

    torch.manual_seed(33)
    WanImageToVideoPipeline(**_words(), vae=wan22_vae(), transformer=wan_transformer(1), scheduler=flow_unipc(5.0),
                            expand_timesteps=True).save_pretrained(folder)
    return folder
