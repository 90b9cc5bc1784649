"""HunyuanVideo: guidance-distilled rectified-flow transformer, Llama and CLIP texts (Kong et al. 2024, 2412.03603)."""

from visalign.generators.shape import Shape
from visalign.generators.video import VideoGenerator


class HunyuanVideoGenerator(VideoGenerator):
    pipeline_class = "HunyuanVideoPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "HunyuanVideoTransformer3DModel"
    # attention alone, as the published recipes train it
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    default_steps, default_guidance_scale = 50, 6.0
    made_for = Shape(720, 1280, 129, 15.0)
