"""Wan 2.1 and 2.2: rectified-flow transformer on 3-D latents with a UMT5 encoder (Wan Team 2025, arXiv 2503.20314)."""

import torch
from torch import Tensor, nn

from visalign.generators.base import Conditioning, Shape
from visalign.generators.flow_times import scheduler_times
from visalign.generators.video import VideoGenerator
from visalign.processes import Flow


class WanGenerator(VideoGenerator):
    """Text to video: Wan 2.1, and of Wan 2.2 the checkpoints with one transformer."""

    pipeline_class = "WanPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "WanTransformer3DModel"
    lora_targets = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
    made_for = Shape(480, 832, 81, 16.0)

    def build_process(self) -> Flow:
        config = self.pipeline.scheduler.config
        return Flow(shift=config.get("flow_shift") or config.get("shift") or 1.0)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, _ = self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=self.device,
                                                    max_sequence_length=self.prompt_tokens)
        return {"prompt_embeds": hidden.float()}

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        if self.pipeline.config.expand_timesteps:  # Wan 2.2 5B: every token has a time
            time = time[:, None].expand(-1, self.tokens())
        return network(hidden_states=latents, timestep=time,
                       encoder_hidden_states=conditioning["prompt_embeds"].to(latents.dtype), return_dict=False)[0]

    def schedule(self, steps: int) -> Tensor:
        return scheduler_times(self.pipeline.scheduler, steps, tokens=self.tokens())
