"""FLUX.1: guidance-distilled rectified-flow transformer on packed latents, CLIP and T5 (Black Forest Labs, 2024)."""

from visalign.generators.base import Generator
from visalign.media.source_images import SourceCount


class FluxGenerator(Generator):
    pipeline_class = "FluxPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "FluxTransformer2DModel"
    # attention alone, as the published recipes train it
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    unneeded = {"image_encoder": None, "feature_extractor": None}
    default_steps, default_guidance_scale = 28, 3.5
    usual_prompt_tokens = 256  # half of what the pipeline pads to: padding is paid for in every step
    text_first = True
    interface_prefix = "transformer."


class FluxKontextGenerator(FluxGenerator):
    """FLUX.1 that edits a source image, whose tokens follow the noisy ones."""

    pipeline_class = "FluxKontextPipeline"
    sources = SourceCount("an edit")
