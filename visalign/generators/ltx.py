"""LTX-Video: rectified-flow transformer on packed, strongly compressed latents (HaCohen et al. 2024, 2501.00103)."""

import numpy as np
import torch
from torch import Tensor, nn

from visalign.generators.base import Conditioning
from visalign.generators.flow_times import scheduler_times
from visalign.generators.shape import Shape
from visalign.generators.video import VideoGenerator


class LTXGenerator(VideoGenerator):
    """The network takes latents as a sequence of tokens, and the frame rate through its positions."""

    pipeline_class = "LTXPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "LTXVideoTransformer3DModel"
    lora_targets = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
    made_for = Shape(512, 704, 161, 25.0)
    default_steps, default_guidance_scale = 50, 3.0
    sides_multiple_of = 32

    @classmethod
    def interface_name(cls, module: str) -> str | None:
        return f"diffusion_model.{module}" if module.startswith("transformer_blocks.") else None

    def spatial_factor(self) -> int:
        return self.pipeline.vae_spatial_compression_ratio

    def temporal_factor(self) -> int:
        return self.pipeline.vae_temporal_compression_ratio

    def patch(self) -> tuple[int, int, int]:
        side = self.pipeline.transformer_spatial_patch_size
        return self.pipeline.transformer_temporal_patch_size, side, side

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, mask, _, _ = self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False,
                                                             device=self.device, max_sequence_length=self.prompt_tokens)
        return {"prompt_embeds": hidden.float(), "mask": mask.float()}

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        _, frames, height, width = self.latent_shape()
        time_patch, patch, _ = self.patch()
        packed = network(
            hidden_states=self.pipeline._pack_latents(latents, patch, time_patch), timestep=time,
            encoder_hidden_states=conditioning["prompt_embeds"].to(latents.dtype),
            encoder_attention_mask=conditioning["mask"], num_frames=frames, height=height, width=width,
            rope_interpolation_scale=(self.temporal_factor() / self.shape.fps, self.vae_factor, self.vae_factor),
            return_dict=False)[0]
        return self._unpack(packed)

    def _unpack(self, latents: Tensor) -> Tensor:
        time_patch, patch, _ = self.patch()
        return self.pipeline._unpack_latents(latents, *self.latent_shape()[1:], patch, time_patch)

    def schedule(self, steps: int) -> Tensor:
        even = np.linspace(1.0, 1 / steps, steps).tolist()
        return scheduler_times(self.pipeline.scheduler, steps, tokens=self.tokens(), sigmas=even)

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        vae = self.pipeline.vae
        mean, std = (v.to(self.device).float().view(1, -1, 1, 1, 1) for v in (vae.latents_mean, vae.latents_std))
        return mean, vae.config.scaling_factor / std

    def _decode_scaled(self, latents: Tensor) -> Tensor:
        """For a VAE that denoises while decoding, the remaining noise is 0."""
        vae = self.pipeline.vae
        time = torch.zeros(len(latents), device=latents.device, dtype=latents.dtype)
        return vae.decode(latents, time if vae.config.timestep_conditioning else None).sample

    def _sampling_options(self) -> dict:
        return super()._sampling_options() | {"frame_rate": self.shape.fps}
