"""HunyuanVideo: guidance-distilled rectified-flow transformer, Llama and CLIP texts (Kong et al. 2024, 2412.03603)."""

import numpy as np
import torch
from torch import Tensor, nn

from visalign.generators.base import Conditioning
from visalign.generators.flow_times import scheduler_times
from visalign.generators.shape import Shape
from visalign.generators.video import VideoGenerator


class HunyuanVideoGenerator(VideoGenerator):
    """The guidance scale is an input of the network."""

    pipeline_class = "HunyuanVideoPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "HunyuanVideoTransformer3DModel"
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    embedded_guidance = 6.0
    default_steps, default_guidance_scale = 50, embedded_guidance
    made_for = Shape(720, 1280, 129, 15.0)

    def patch(self) -> tuple[int, int, int]:
        config = self.denoiser.config
        return config.patch_size_t, config.patch_size, config.patch_size

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, pooled, mask = self.pipeline.encode_prompt(prompts, device=self.device,
                                                               max_sequence_length=self.prompt_tokens)
        return {"prompt_embeds": hidden.float(), "pooled": pooled.float(), "mask": mask.float()}

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        takes_guidance = self.denoiser.config.guidance_embeds
        return network(
            hidden_states=latents, timestep=time, encoder_attention_mask=conditioning["mask"].to(latents.dtype),
            encoder_hidden_states=conditioning["prompt_embeds"].to(latents.dtype),
            pooled_projections=conditioning["pooled"].to(latents.dtype),
            guidance=1000 * conditioning["guidance"] if takes_guidance else None, return_dict=False)[0]

    def schedule(self, steps: int) -> Tensor:
        even = np.linspace(1.0, 0.0, steps + 1)[:-1].tolist()
        return scheduler_times(self.pipeline.scheduler, steps, tokens=self.tokens(), sigmas=even)
