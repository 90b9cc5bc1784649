"""What video generators share: frames, the latents' time axis, and encoding and decoding videos."""

import math

import numpy as np
from PIL import Image
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.shape import Shape
from visalign.media.samples import Media, Video, video_pixels


class VideoGenerator(Generator):
    """A pipeline of videos; latents are [B, C, f, h, w].

    `made_for` has what the pipeline's call does not say, at least the frame rate.
    """

    modality = "video"
    sides_multiple_of = 16

    def temporal_factor(self) -> int:
        """Frames per latent frame, after the first; 1 where the VAE knows no frames."""
        names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
        return next((getattr(self.pipeline, name) for name in names if hasattr(self.pipeline, name)), 1)

    def default_shape(self) -> Shape:
        frames = next(filter(None, map(self._default, ("num_frames", "frames", "video_length"))), None)
        rate = self._default("frame_rate") or self._default("fps")
        return self.made_for.or_else(Shape(None, None, frames, rate and float(rate))).or_else(super().default_shape())

    def check_shape(self, shape: Shape) -> Shape:
        super().check_shape(shape)
        if shape.frames is None or shape.fps is None:
            missing = "frames" if shape.frames is None else "fps"
            raise UserError(f"model.{missing}: this model's configuration does not say what it was trained for; set it")
        time = self.temporal_factor()
        over = (self.default_shape().frames or 1) % time  # mostly 1; some VAEs do not set the first frame apart
        if (shape.frames - over) % time:
            near = (shape.frames - over) // time * time + over
            raise UserError(f"model.frames {shape.frames}: {self.pipeline_class} makes {f'{over} + ' if over else ''}"
                            f"{time} k frames, such as {near} or {near + time}")
        return shape

    def latent_shape(self) -> tuple[int, ...]:
        if self.conventions is not None:
            return self.conventions.shape
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
