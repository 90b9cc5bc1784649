"""FLUX.1: guidance-distilled rectified-flow transformer on packed latents, CLIP and T5 (Black Forest Labs, 2024)."""

import numpy as np
import torch
from torch import Tensor, nn

from visalign.generators.base import Conditioning, Generator
from visalign.generators.flow_times import scheduler_times
from visalign.generators.shape import Shape


class FluxGenerator(Generator):
    """Latents stay [B, C, h, w] here; the network sees 2x2 patches in a row. The guidance scale is an input too."""

    pipeline_class = "FluxPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "FluxTransformer2DModel"
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    unneeded = {"image_encoder": None, "feature_extractor": None}
    embedded_guidance = 3.5
    default_steps, default_guidance_scale = 28, embedded_guidance

    @classmethod
    def interface_name(cls, module: str) -> str:
        return f"transformer.{module}"

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, pooled, _ = self.pipeline.encode_prompt(prompts, None, device=self.device,
                                                            max_sequence_length=self.prompt_tokens)
        return {"prompt_embeds": hidden.float(), "pooled": pooled.float()}

    def default_shape(self) -> Shape:
        side = self.pipeline.default_sample_size * self.vae_factor
        return Shape(side, side)

    def patch(self) -> tuple[int, int, int]:
        return 1, 2, 2

    def latent_shape(self) -> tuple[int, ...]:
        _, height, width = super().latent_shape()
        return self.denoiser.config.in_channels // 4, height, width

    def _tokens_of(self, output: tuple[Tensor, Tensor]) -> Tensor:
        return output[1]  # after the text's tokens

    def tokens(self) -> int:
        _, height, width = self.latent_shape()
        return height * width // 4

    def schedule(self, steps: int) -> Tensor:
        even = np.linspace(1.0, 1 / steps, steps).tolist()
        return scheduler_times(self.pipeline.scheduler, steps, tokens=self.tokens(), sigmas=even)

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        count, channels, height, width = latents.shape
        packed = self.pipeline._pack_latents(latents, count, channels, height, width)
        places = self.pipeline._prepare_latent_image_ids(count, height // 2, width // 2, latents.device, latents.dtype)
        hidden = conditioning["prompt_embeds"].to(latents.dtype)
        takes_guidance = self.denoiser.config.guidance_embeds
        prediction = network(
            hidden_states=packed, timestep=time / 1000, encoder_hidden_states=hidden,
            pooled_projections=conditioning["pooled"].to(latents.dtype), img_ids=places,
            guidance=conditioning["guidance"] if takes_guidance else None,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=latents.device, dtype=latents.dtype), return_dict=False)[0]
        return self.pipeline._unpack_latents(prediction, height * self.vae_factor, width * self.vae_factor,
                                             self.vae_factor)

    def _unpack(self, latents: Tensor) -> Tensor:
        height, width = (side * self.vae_factor for side in self.latent_shape()[1:])
        return self.pipeline._unpack_latents(latents, height, width, self.vae_factor)

    def _sampling_options(self) -> dict:
        return {"max_sequence_length": self.prompt_tokens}
