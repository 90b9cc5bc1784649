"""Published networks, built without memory, have their published numbers of parameters."""

import diffusers
import pytest
import torch

PUBLISHED = {
    "Z-Image": ("ZImageTransformer2DModel", {}, 6e9),
    "Qwen-Image": ("QwenImageTransformer2DModel", {}, 20e9),
    "FLUX.2 dev": ("Flux2Transformer2DModel", {}, 32e9),
    "FLUX.2 klein 4B": ("Flux2Transformer2DModel", {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24,
                                                    "joint_attention_dim": 7680, "guidance_embeds": False}, 4e9),
    "FLUX.2 klein 9B": ("Flux2Transformer2DModel", {"num_single_layers": 24, "num_attention_heads": 32,
                                                    "joint_attention_dim": 12288, "guidance_embeds": False}, 9e9),
    "FLUX.1 Kontext": ("FluxTransformer2DModel", {"guidance_embeds": True}, 12e9),
    "LTX-2": ("LTX2VideoTransformer3DModel", {}, 19e9),
    "HunyuanVideo 1.5": ("HunyuanVideo15Transformer3DModel", {}, 8.3e9),
    "Sana 1.6B": ("SanaTransformer2DModel", {}, 1.6e9),
    "Sana 0.6B": ("SanaTransformer2DModel", {"num_layers": 28, "num_attention_heads": 36, "cross_attention_dim": 1152,
                                             "num_cross_attention_heads": 16, "cross_attention_head_dim": 72}, 0.6e9),
    "Sana-Video 2B": ("SanaVideoTransformer3DModel", {}, 2e9),
    "Wan 2.2 A14B": ("WanTransformer3DModel", {}, 14e9),
    "Wan 2.2 5B": ("WanTransformer3DModel", {"num_attention_heads": 24, "in_channels": 48, "out_channels": 48,
                                             "ffn_dim": 14336, "num_layers": 30}, 5e9),
    "Chroma": ("ChromaTransformer2DModel", {}, 8.9e9),
    "Lumina 2": ("Lumina2Transformer2DModel", {}, 2.6e9),
    "AuraFlow": ("AuraFlowTransformer2DModel", {}, 6.8e9),
    "CogView 4": ("CogView4Transformer2DModel", {"num_layers": 28, "num_attention_heads": 32,
                                                 "attention_head_dim": 128}, 6e9),
    "PixArt-Sigma": ("PixArtTransformer2DModel", {}, 0.6e9),
}
"""By checkpoint: the network's class, its configuration where that is not the class's own, and what is published."""


@pytest.mark.parametrize("checkpoint", PUBLISHED)
def test_parameters_are_the_published_number(checkpoint):
    name, settings, published = PUBLISHED[checkpoint]
    with torch.device("meta"):
        size = sum(p.numel() for p in getattr(diffusers, name)(**settings).parameters())
    digits = len(f"{published:.0f}".rstrip("0"))
    assert float(f"{size:.{digits - 1}e}") == published
