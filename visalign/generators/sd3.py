"""Stable Diffusion 3 and 3.5: MMDiT, rectified flow, two CLIP encoders and an optional T5 (Esser et al. 2024)."""

import math

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator
from visalign.generators.flow_times import scheduler_times
from visalign.generators.shape import Shape


class SD3Generator(Generator):
    pipeline_class = "StableDiffusion3Pipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "SD3Transformer2DModel"
    lora_targets = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                    "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
    unneeded = {"image_encoder": None, "feature_extractor": None}
    droppable = ("text_encoder_3", "tokenizer_3")
    default_steps, default_guidance_scale = 28, 4.5

    @classmethod
    def interface_name(cls, module: str) -> str:
        return f"transformer.{module}"

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, _, pooled, _ = self.pipeline.encode_prompt(
                prompts, None, None, device=self.device, do_classifier_free_guidance=False,
                max_sequence_length=self.prompt_tokens)
        return {"prompt_embeds": hidden.float(), "pooled": pooled.float()}

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        return network(hidden_states=latents, timestep=time,
                       encoder_hidden_states=conditioning["prompt_embeds"].to(latents.dtype),
                       pooled_projections=conditioning["pooled"].to(latents.dtype), return_dict=False)[0]

    def _tokens_of(self, output: tuple[Tensor, Tensor]) -> Tensor:
        return output[1]  # after the text's tokens

    def patch(self) -> tuple[int, int, int]:
        side = self.denoiser.config.patch_size
        return 1, side, side

    def check_shape(self, shape: Shape) -> Shape:
        super().check_shape(shape)
        most = self.denoiser.config.pos_embed_max_size * self.patch()[1] * self.vae_factor
        if max(shape.height, shape.width) > most:
            raise UserError(f"model.resolution: {shape} is larger than this model's table of positions, which reaches "
                            f"to {most} pixels a side")
        return shape

    def tokens(self) -> int:
        _, height, width = self.latent_shape()
        return height * width // math.prod(self.patch())

    def schedule(self, steps: int) -> Tensor:
        return scheduler_times(self.pipeline.scheduler, steps, tokens=self.tokens())

    def _sampling_options(self) -> dict:
        return {"max_sequence_length": self.prompt_tokens}
