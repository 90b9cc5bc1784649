"""What video generators share: frames, the latents' time axis, and encoding and decoding videos."""

import math
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator
from visalign.generators.shape import Shape
from visalign.media.samples import Media, Video, video_pixels


class VideoGenerator(Generator):
    """A pipeline of videos; latents are [B, C, f, h, w] here, whatever the pipeline's own order.

    A family also defines `made_for`, the shape that its first checkpoint was trained for, and `sides_multiple_of`, what
    its pipeline requires of height and width.
    """

    modality = "video"
    made_for: ClassVar[Shape]
    sides_multiple_of = 16

    def spatial_factor(self) -> int:
        return self.pipeline.vae_scale_factor_spatial

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        with self.arithmetic():
            hidden, _ = self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=self.device,
                                                    max_sequence_length=self.prompt_tokens)
        return {"prompt_embeds": hidden.float()}

    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first."""
        return self.pipeline.vae_scale_factor_temporal

    def patch(self) -> tuple[int, int, int]:
        """Latents for each of the network's tokens: (frames, height, width)."""
        size = self.denoiser.config.patch_size
        return tuple(size) if isinstance(size, list | tuple) else (1, size, size)

    def default_shape(self) -> Shape:
        return self.made_for

    def check_shape(self, shape: Shape) -> Shape:
        super().check_shape(shape)
        time = self.temporal_factor()
        if (shape.frames - 1) % time:
            near = (shape.frames - 1) // time * time + 1
            raise UserError(f"model.frames {shape.frames}: {self.pipeline_class} makes 1 + {time} k frames, "
                            f"such as {near} or {near + time}")
        return shape

    def latent_shape(self) -> tuple[int, ...]:
        channels, height, width = super().latent_shape()
        return channels, (self.shape.frames - 1) // self.temporal_factor() + 1, height, width

    def tokens(self) -> int:
        """Tokens of one video in the network."""
        return int(np.prod([n // p for n, p in zip(self.latent_shape()[1:], self.patch(), strict=True)]))

    def speed_of(self, media: Media) -> float:
        return (len(media.frames) - 1) / media.fps / ((self.shape.frames - 1) / self.shape.fps or math.inf)

    def to_pixels(self, media: list[Media]) -> Tensor:
        return video_pixels(media, self.shape.frames, (self.shape.height, self.shape.width))

    def _to_media(self, pixels: Tensor) -> list[Media]:
        frames = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).numpy()
        return [Video([Image.fromarray(frame) for frame in video], self.shape.fps) for video in frames]

    def _sampling_options(self) -> dict:
        return {"num_frames": self.shape.frames, "max_sequence_length": self.prompt_tokens}
