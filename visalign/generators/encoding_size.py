"""How large encodings are, known from configurations alone."""

import math

from visalign.generators.base import Generator

_WIDTHS = ("caption_channels", "cap_feat_dim", "text_embed_dim", "text_dim", "in_text_dim", "joint_attention_dim",
           "cross_attention_dim")
"""What networks call the width of a prompt's tokens; the first that one has counts."""


def numbers_of_latents(generator: Generator) -> int:
    """Of one image or video."""
    return math.prod(generator.latent_shape())


def numbers_of_prompt(generator: Generator) -> int:
    """Of one prompt's conditioning, about and at most: padding that is stored nowhere counts.

    One CLIP encoder beside others gives a pooled vector alone; two, or one by itself, also give tokens.
    """
    encoders = generator.text_encoders().values()
    clips = [encoder for encoder in encoders if type(encoder).__name__.startswith("CLIP")]
    others = len(clips) < len(encoders)
    in_tokens = clips if len(clips) > 1 or not others else []
    tokens = max((clip.config.max_position_embeddings for clip in in_tokens), default=0)
    projected = [clip.config.projection_dim for clip in clips if type(clip).__name__.endswith("WithProjection")]
    pooled = sum(projected) or (clips[0].config.hidden_size if clips and others else 0)
    return (tokens + generator.prompt_tokens * others) * _width(generator) + pooled


def _width(generator: Generator) -> int:
    config = generator.denoiser.config
    named = next((config[name] for name in _WIDTHS if isinstance(config.get(name), int)), None)
    return named or max(encoder.config.get_text_config().hidden_size
                        for encoder in generator.text_encoders().values())
