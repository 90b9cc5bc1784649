"""CogVideoX 2B, 5B and 1.5: v-prediction diffusion on videos, noised to zero signal (Yang et al. 2024, 2408.06072)."""

from dataclasses import astuple

from visalign.errors import UserError
from visalign.generators.shape import Shape
from visalign.generators.video import VideoGenerator


class CogVideoXGenerator(VideoGenerator):
    """Sizes alone: its network has learnt positions."""

    pipeline_class = "CogVideoXPipeline"
    process_kind = "diffusion"
    denoiser_name = "transformer"
    denoiser_class = "CogVideoXTransformer3DModel"
    lora_targets = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0")
    made_for = Shape(480, 720, 49, 8.0)
    default_steps, default_guidance_scale = 50, 6.0
    sides_multiple_of = 8

    def patch(self) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.patch_size_t or 1, config.patch_size, config.patch_size

    def default_shape(self) -> Shape:
        config = self.denoiser.config
        height, width = (side * self.vae_factor for side in (config.sample_height, config.sample_width))
        frames = (config.sample_frames - 1) // self.temporal_factor() * self.temporal_factor() + 1
        return Shape(height, width, frames, self.made_for.fps)

    def check_shape(self, shape: Shape) -> Shape:
        super().check_shape(shape)
        latents, patch = (shape.frames - 1) // self.temporal_factor() + 1, self.patch()[0]
        if latents % patch:
            near = (latents // patch * patch - 1) * self.temporal_factor() + 1
            raise UserError(f"model.frames {shape.frames}: gives {latents} frames of latents, which the network takes "
                            f"{patch} at a time; use {near} or {near + patch * self.temporal_factor()}")
        own = self.default_shape()
        if self.denoiser.config.use_learned_positional_embeddings and shape != Shape(*astuple(own)[:3], shape.fps):
            raise UserError(f"model.resolution, model.frames: this CogVideoX has learnt positions for {own} only, not "
                            f"for {shape}")
        return shape

    def most_prompt_tokens(self) -> int:
        return self.denoiser.config.max_text_seq_length

    def check_prompt_tokens(self, asked: int | None) -> int:
        config, most = self.denoiser.config, self.most_prompt_tokens()
        if asked not in (None, most) and not config.use_rotary_positional_embeddings:
            raise UserError(f"model.prompt_tokens {asked}: this CogVideoX takes exactly {most}")
        return super().check_prompt_tokens(asked or most)
