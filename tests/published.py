"""Folders with the configurations of published checkpoints, and no weights: a tiny pipeline gives the rest."""

import json
import shutil
from pathlib import Path

import diffusers
import torch

CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
          "projection_dim": 768, "vocab_size": 49408, "max_position_embeddings": 77}
CLIP_G = {**CLIP_L, "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120,
          "projection_dim": 1280}
T5_XXL = {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_kv": 64, "d_ff": 10240, "vocab_size": 32128,
          "feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new"}
UMT5_XXL = {**T5_XXL, "vocab_size": 256384}
VAE = {"latent_channels": 4, "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 1024,
       "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
VAE_16 = {**VAE, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
SDXL = {"sample_size": 128, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": [1, 2, 10],
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048, "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816}
SD15 = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8,
        "cross_attention_dim": 768}
SD35_MEDIUM = {"sample_size": 128, "num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64,
               "in_channels": 16, "out_channels": 16, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
               "pooled_projection_dim": 2048, "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)),
               "qk_norm": "rms_norm"}
FLUX = {"in_channels": 64, "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128,
        "num_attention_heads": 24, "joint_attention_dim": 4096, "pooled_projection_dim": 768, "guidance_embeds": True}
WAN = {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960, "attention_head_dim": 128, "text_dim": 4096,
       "in_channels": 16, "out_channels": 16}

PARTS = {
    "sdxl": {"unet": ("UNet2DConditionModel", SDXL), "vae": ("AutoencoderKL", {**VAE, "scaling_factor": 0.13025}),
             "text_encoder": CLIP_L, "text_encoder_2": CLIP_G},
    "sd15": {"unet": ("UNet2DConditionModel", SD15), "vae": ("AutoencoderKL", {**VAE, "sample_size": 512}),
             "text_encoder": CLIP_L},
    "sd3": {"transformer": ("SD3Transformer2DModel", SD35_MEDIUM),
            "vae": ("AutoencoderKL", {**VAE_16, "scaling_factor": 1.5305, "shift_factor": 0.0609}),
            "text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
    "flux": {"transformer": ("FluxTransformer2DModel", FLUX),
             "vae": ("AutoencoderKL", {**VAE_16, "scaling_factor": 0.3611, "shift_factor": 0.1159}),
             "text_encoder": CLIP_L, "text_encoder_2": T5_XXL},
    "wan": {"transformer": ("WanTransformer3DModel", WAN), "vae": ("AutoencoderKLWan", {}), "text_encoder": UMT5_XXL},
}
"""By tiny pipeline: classes of diffusers with their settings, and changes to the configurations of text encoders."""


def published(name: str, tiny: Path, to: Path, only: tuple[str, ...] = ()) -> Path:
    """The folder `to`/NAME with these parts of full size, or only some of them; the others are the tiny ones."""
    folder = to / name
    shutil.copytree(tiny, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for part, what in PARTS[name].items():
        if only and part not in only:
            continue
        file = folder / part / "config.json"
        if isinstance(what, tuple):
            kind, settings = what
            with torch.device("meta"):
                config = dict(getattr(diffusers, kind)(**settings).config) | {"_class_name": kind}
        else:
            config = json.loads(file.read_text()) | what
        file.write_text(json.dumps(config))
    for file in folder.glob("tokenizer*/tokenizer_config.json"):
        config = json.loads(file.read_text())
        if config["tokenizer_class"].startswith("CLIP"):
            file.write_text(json.dumps(config | {"model_max_length": 77}))
    return folder
