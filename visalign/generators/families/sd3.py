"""Stable Diffusion 3 and 3.5: MMDiT, rectified flow, two CLIP encoders and an optional T5 (Esser et al. 2024)."""

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.shape import Shape


class SD3Generator(Generator):
    pipeline_class = "StableDiffusion3Pipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "SD3Transformer2DModel"
    # attention alone, as the published recipes train it
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    unneeded = {"image_encoder": None, "feature_extractor": None}
    droppable = ("text_encoder_3", "tokenizer_3")
    default_steps, default_guidance_scale = 28, 4.5
    text_first = True
    interface_prefix = "transformer."

    def check_shape(self, shape: Shape) -> Shape:
        super().check_shape(shape)
        most = self.denoiser.config.pos_embed_max_size * self.patch()[1] * self.vae_factor
        if max(shape.height, shape.width) > most:
            raise UserError(f"model.resolution: {shape} is larger than this model's table of positions, which reaches "
                            f"to {most} pixels a side")
        return shape
