"""Sizes of samples and prompts: what a checkpoint was trained for, and what its pipeline and network can take."""

import math
from typing import ClassVar

from visalign.errors import UserError
from visalign.generators.shape import Shape


class Sized:
    """The part of a generator that depends on its configuration alone; `pipeline` and `denoiser` may lack weights.

    sides_multiple_of: what the pipeline requires of height and width beyond VAE and patches.
    """

    modality: ClassVar[str] = "image"
    pipeline_class: ClassVar[str]
    sides_multiple_of: ClassVar[int] = 1

    def spatial_factor(self) -> int:
        """Pixels per latent along a side."""
        return self.pipeline.vae_scale_factor

    def default_shape(self) -> Shape:
        """The shape this model was trained for."""
        size = self.denoiser.config.sample_size
        if size is None:
            return Shape()
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return Shape(height * self.vae_factor, width * self.vae_factor)

    def patch(self) -> tuple[int, int, int]:
        """Latents for each of the network's tokens: (frames, height, width)."""
        return 1, 1, 1

    def check_shape(self, shape: Shape) -> Shape:
        """The shape it will generate. Raises UserError for an impossible one."""
        given = [name for name in ("frames", "fps") if getattr(shape, name) is not None]
        if given and self.modality == "image":
            raise UserError(f"model.{given[0]}: {self.pipeline_class} makes images, which have none")
        if shape.height is None or shape.width is None:
            raise UserError("model.resolution: this model's configuration does not say what it was trained for; set it")
        for name, side, patch in zip(("height", "width"), (shape.height, shape.width), self.patch()[1:], strict=True):
            factor = math.lcm(self.vae_factor * patch, self.sides_multiple_of)
            if side % factor:
                near = max(1, side // factor) * factor
                raise UserError(f"model.resolution: a {name} of {side} is not a multiple of {factor}, which "
                                f"{self.pipeline_class} needs; use {near} or {near + factor}")
        return shape

    def most_prompt_tokens(self) -> int:
        """The longest prompt, in tokens, that the pipeline takes."""
        return 512

    def check_prompt_tokens(self, asked: int | None) -> int:
        """How many tokens of a prompt are encoded. Raises UserError for an impossible number."""
        most = self.most_prompt_tokens()
        if asked is not None and asked > most:
            raise UserError(f"model.prompt_tokens {asked}: {self.pipeline_class} takes {most} at most")
        return min(256, most) if asked is None else asked

    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of one sample at the working resolution; (C, f, h, w) of a video."""
        return (self.denoiser.config.in_channels, self.shape.height // self.vae_factor,
                self.shape.width // self.vae_factor)

    def tokens(self) -> int | None:
        """Tokens of one sample in the network; None where it has no tokens (U-Nets)."""
        return None
