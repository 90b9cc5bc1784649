"""U-Net checkpoints: SD1.x, SD2.x (epsilon or v prediction; Rombach et al. 2022) and SDXL (Podell et al. 2023)."""

from torch import Tensor, nn

from visalign.generators.base import Generator


class SDGenerator(Generator):
    """StableDiffusionPipeline."""

    pipeline_class = "StableDiffusionPipeline"
    process_kind = "diffusion"
    denoiser_name = "unet"
    denoiser_class = "UNet2DConditionModel"
    has_kohya_names = True
    sides_multiple_of = 8
    unneeded = {"safety_checker": None, "feature_extractor": None, "image_encoder": None,
                "requires_safety_checker": False}
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")  # as the published recipes train it
    default_steps, default_guidance_scale = 50, 7.5

    def blocks(self) -> list[nn.Module]:
        return [*self.network_in_use().down_blocks, self.network_in_use().mid_block]

    def _tokens_of(self, output) -> Tensor:
        return super()._tokens_of(output).flatten(2).transpose(1, 2)  # a grid, not tokens


class SDXLGenerator(SDGenerator):
    """StableDiffusionXLPipeline."""

    pipeline_class = "StableDiffusionXLPipeline"
    exact_vae = True
    told_fit = {"added_cond_kwargs.time_ids": slice(0, 6)}
    unneeded = {"image_encoder": None, "feature_extractor": None}
    default_steps, default_guidance_scale = 30, 5.0
