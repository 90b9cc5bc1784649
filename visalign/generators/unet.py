"""U-Net checkpoints: SD1.x, SD2.x (epsilon or v prediction) and SDXL."""

import torch
from torch import Tensor, nn

from visalign.generators.base import Conditioning, Generator
from visalign.generators.schedulers import trained_diffusion
from visalign.processes import Diffusion


class SDGenerator(Generator):
    """StableDiffusionPipeline: one text encoder, no added conditions (Rombach et al. 2022)."""

    pipeline_class = "StableDiffusionPipeline"
    process_kind = "diffusion"
    denoiser_name = "unet"
    denoiser_class = "UNet2DConditionModel"
    has_kohya_names = True
    sides_multiple_of = 8
    unneeded = {"safety_checker": None, "feature_extractor": None, "image_encoder": None,
                "requires_safety_checker": False}
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_steps, default_guidance_scale = 50, 7.5

    @classmethod
    def process_of(cls, scheduler) -> Diffusion:
        """Rebuilds the training noise schedule, whatever sampler the checkpoint ships with."""
        from diffusers import DDPMScheduler

        return trained_diffusion(scheduler, DDPMScheduler)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, _ = self.pipeline.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return {"prompt_embeds": hidden.float()}

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        return network(latents, time, encoder_hidden_states=conditioning["prompt_embeds"].to(latents.dtype),
                       added_cond_kwargs=self._added_conditions(latents, conditioning), return_dict=False)[0]

    def _added_conditions(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor] | None:
        return None

    def blocks(self) -> list[nn.Module]:
        return [*self.denoiser.down_blocks, self.denoiser.mid_block]

    def _tokens_of(self, output) -> Tensor:
        return super()._tokens_of(output).flatten(2).transpose(1, 2)


class SDXLGenerator(SDGenerator):
    """StableDiffusionXLPipeline: two text encoders, pooled embedding and size conditions (Podell et al. 2023)."""

    pipeline_class = "StableDiffusionXLPipeline"
    unneeded = {"image_encoder": None, "feature_extractor": None}
    default_steps, default_guidance_scale = 30, 5.0

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, _, pooled, _ = self.pipeline.encode_prompt(prompts, device=self.device,
                                                               do_classifier_free_guidance=False)
        empty = torch.tensor([p == "" for p in prompts], device=hidden.device).view(-1, 1)
        if self.pipeline.config.get("force_zeros_for_empty_prompt", False):
            hidden, pooled = hidden.masked_fill(empty[..., None], 0), pooled.masked_fill(empty, 0)
        return {"prompt_embeds": hidden.float(), "pooled": pooled.float()}

    def _added_conditions(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """Original size, crop corner and target size: full, uncropped images at the training resolution."""
        height, width = (side * self.vae_factor for side in latents.shape[-2:])
        time_ids = torch.tensor([height, width, 0, 0, height, width], device=latents.device, dtype=latents.dtype)
        return {"text_embeds": conditioning["pooled"].to(latents.dtype), "time_ids": time_ids.repeat(len(latents), 1)}
