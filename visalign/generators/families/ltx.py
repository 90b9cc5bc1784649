"""LTX-Video: rectified-flow transformer on packed, strongly compressed latents (HaCohen et al. 2024, 2501.00103)."""

from visalign.generators.shape import Shape
from visalign.generators.video import VideoGenerator


class LTXGenerator(VideoGenerator):
    """The network takes latents as a sequence of tokens, and the frame rate through its positions."""

    pipeline_class = "LTXPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "LTXVideoTransformer3DModel"
    # attention alone, as the published recipes train it
    lora_targets = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
    made_for = Shape(512, 704, 161, 25.0)
    default_steps, default_guidance_scale = 50, 3.0
    usual_prompt_tokens = 256
    sides_multiple_of = 32

    @classmethod
    def interface_name(cls, module: str) -> str | None:
        return f"diffusion_model.{module}" if module.startswith("transformer_blocks.") else None

    def patch(self) -> tuple[int, int, int]:
        side = self.pipeline.transformer_spatial_patch_size
        return self.pipeline.transformer_temporal_patch_size, side, side
