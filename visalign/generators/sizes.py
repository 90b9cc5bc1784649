"""Sizes of samples and prompts: what a checkpoint was trained for, and what its pipeline and network can take."""

import inspect
import math
from typing import Any, ClassVar

from visalign.errors import UserError
from visalign.generators.observe.conventions import Conventions
from visalign.generators.shape import Shape


class Sized:
    """The part of a generator that depends on its configuration alone; `pipeline` and `denoiser` may lack weights.

    sides_multiple_of: what the pipeline requires of height and width beyond VAE and patches.
    """

    pipeline: Any
    denoiser: Any
    conventions: Conventions | None = None
    modality: ClassVar[str] = "image"
    pipeline_class: ClassVar[str]
    sides_multiple_of: ClassVar[int] = 1
    made_for: ClassVar[Shape] = Shape()  # where the pipeline's call and its network's configuration do not say it
    usual_prompt_tokens: ClassVar[int | None] = None  # None: as the pipeline's call has it

    def _default(self, name: str) -> Any:
        """The default of an argument of the pipeline's call, None where it has none."""
        parameter = inspect.signature(type(self.pipeline).__call__).parameters.get(name)
        return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default

    def spatial_factor(self) -> int:
        """Pixels per latent along a side."""
        names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor",
                 "vae_scale_factor")
        return next(getattr(self.pipeline, name) for name in names if hasattr(self.pipeline, name))

    def default_shape(self) -> Shape:
        """The shape this model was trained for."""
        size = getattr(self.pipeline, "default_sample_size", None) or getattr(self.denoiser.config, "sample_size", None)
        height, width = size if isinstance(size, list | tuple) else (size, size)
        of_network = Shape(height * self.vae_factor, width * self.vae_factor) if height else Shape()
        return self.made_for.or_else(Shape(self._default("height"), self._default("width"))).or_else(of_network)

    def patch(self) -> tuple[int, int, int]:
        """Latents for each of the network's tokens: (frames, height, width)."""
        size = getattr(self.denoiser.config, "patch_size", None) or 1
        time = getattr(self.denoiser.config, "patch_size_t", None) or 1
        return tuple(size) if isinstance(size, list | tuple) and len(size) == 3 else \
            (time, *(size if isinstance(size, list | tuple) else (size, size))[-2:])

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
        return max(512, self._default("max_sequence_length") or 0)

    def check_prompt_tokens(self, asked: int | None) -> int:
        """How many tokens of a prompt are encoded. Raises UserError for an impossible number."""
        most = self.most_prompt_tokens()
        if asked is not None and asked > most:
            raise UserError(f"model.prompt_tokens {asked}: {self.pipeline_class} takes {most} at most")
        usual = self.usual_prompt_tokens or self._default("max_sequence_length") or most
        return min(usual, most) if asked is None else asked

    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of one sample at the working resolution; (C, f, h, w) of a video, or where the VAE has frames."""
        if self.conventions is not None:
            return self.conventions.shape
        config = self.pipeline.vae.config
        return (config.get("latent_channels") or config.get("z_dim"), self.shape.height // self.vae_factor,
                self.shape.width // self.vae_factor)

    def tokens(self) -> int | None:
        """Tokens of one sample in the network; None where it has no tokens (U-Nets)."""
        if not hasattr(self.denoiser.config, "patch_size"):
            return None
        _, height, width = self.patch()
        return math.prod(self.latent_shape()[-2:]) // (height * width)
