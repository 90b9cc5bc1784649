"""Wan 2.1 and 2.2: rectified-flow transformers on 3-D latents with a UMT5 encoder (Wan Team 2025, arXiv 2503.20314)."""

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.shape import Shape
from visalign.generators.video import VideoGenerator
from visalign.media.source_images import SourceCount

SECOND = "transformer_2"
_PUBLISHED = {
    "attn1": "self_attn", "attn2": "cross_attn", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o",
    "add_k_proj": "k_img", "add_v_proj": "v_img", "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3", "proj_out": "head.head"}
"""Layer names in diffusers, and in the files published by Wan's authors."""


class WanGenerator(VideoGenerator):
    """Text to video. Wan 2.2 14B has two transformers, one for high and one for low noise; both are trained."""

    pipeline_class = "WanPipeline"
    process_kind = "flow"
    denoiser_name = "transformer"
    denoiser_class = "WanTransformer3DModel"
    # attention alone, as the published recipes train it
    lora_targets = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0",
                    "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
    used_apart = ("high.", "low.")
    default_steps, default_guidance_scale = 50, 5.0
    made_for = Shape(480, 832, 81, 16.0)
    usual_prompt_tokens = 256  # half of what the pipeline pads to: padding is paid for in every step

    def find_denoiser(self, pipeline) -> nn.Module:
        boundary = pipeline.config.boundary_ratio
        if getattr(pipeline, SECOND, None) is None or boundary is None:
            return super().find_denoiser(pipeline)
        return Experts(pipeline.transformer, pipeline.transformer_2,
                       boundary * pipeline.scheduler.config.num_train_timesteps)

    def networks(self) -> dict[str, nn.Module]:
        if not isinstance(self.denoiser, Experts):
            return super().networks()
        return {self.denoiser_name: self.denoiser.high, SECOND: self.denoiser.low}

    @classmethod
    def interface_name(cls, module: str) -> str:
        for name, published in _PUBLISHED.items():
            module = re.sub(rf"(^|\.){re.escape(name)}(?=\.|$)", rf"\g<1>{published}", module)
        return f"diffusion_model.{module}"

    def check_shape(self, shape: Shape) -> Shape:
        super().check_shape(shape)
        most = self.denoiser.config.rope_max_seq_len
        sides = zip((shape.height // self.vae_factor, shape.width // self.vae_factor), self.patch()[1:], strict=True)
        if max(side // patch for side, patch in sides) > most or (shape.frames - 1) // self.temporal_factor() >= most:
            raise UserError(f"model.resolution, model.frames: {shape} is larger than this model's table of positions, "
                            f"which has {most} for each side and for time")
        return shape

    def blocks(self) -> list[nn.Module]:
        if isinstance(self.denoiser, Experts):
            raise UserError("model: a latent reward reads one network's blocks, and this model has two")
        return super().blocks()


class WanImageGenerator(WanGenerator):
    """Image to video: Wan 2.1 (with a CLIP view of the image) and Wan 2.2. The first frame is given."""

    pipeline_class = "WanImageToVideoPipeline"
    sources = SourceCount("image to video")


class Experts(nn.Module):
    """Two transformers as one network: samples at times [B] of at least `boundary` go to `high`, the others to `low`.

    Everything else (adapters, precision) applies to both.
    """

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float):
        super().__init__()
        self.high, self.low, self.boundary = high, low, boundary

    @property
    def config(self):
        return self.high.config

    @property
    def dtype(self) -> torch.dtype:
        return self.high.dtype

    def forward(self, timestep: Tensor, return_dict: bool = False, **inputs) -> tuple[Tensor]:
        noisy = timestep.flatten(1)[:, 0] >= self.boundary if timestep.ndim > 1 else timestep >= self.boundary
        order, parts = [], []
        for expert, chosen in ((self.high, noisy), (self.low, ~noisy)):
            rows = chosen.nonzero().flatten()
            if len(rows):
                order.append(rows)
                own = {name: value[rows] if isinstance(value, Tensor) else value for name, value in inputs.items()}
                parts.append(expert(timestep=timestep[rows], return_dict=False, **own)[0])
        return (torch.cat(parts)[torch.cat(order).argsort()],)

    def _both(self, name: str, *arguments, **options) -> None:
        for expert in (self.high, self.low):
            getattr(expert, name)(*arguments, **options)

    def add_adapter(self, settings, name: str) -> None:
        self._both("add_adapter", settings, name)

    def enable_gradient_checkpointing(self, how: Callable) -> None:
        self._both("enable_gradient_checkpointing", how)

    def enable_xformers_memory_efficient_attention(self) -> None:
        self._both("enable_xformers_memory_efficient_attention")
