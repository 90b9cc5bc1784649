"""Sizes of samples and prompts: what a checkpoint was trained for, and what its pipeline and network can take."""

import inspect
import math
from typing import Any, ClassVar

from visalign.errors import UserError
from visalign.generators.shape import Shape


class Sized:
    """The part of a generator that depends on its configuration alone; `pipeline` and `denoiser` may lack weights.

    sides_multiple_of: what the pipeline requires of height and width beyond VAE and patches.
    """

    pipeline: Any
    denoiser: Any
    conventions: Any = None  # observe.Conventions, once they are known
    modality: ClassVar[str] = "image"
    pipeline_class: ClassVar[str]
    denoiser_name: ClassVar[str]
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
        """Latents for each of the network's tokens, packed by it or by the pipeline: (frames, height, width)."""
        config = self.denoiser.config
        size = config.get("patch_size") or next(iter(config.get("all_patch_size") or ()), 1)
        size = tuple(size) if isinstance(size, list | tuple) else (size, size)
        time, height, width = size if len(size) == 3 else (config.get("patch_size_t") or 1, *size[-2:])
        packed = self._packed()
        return time, height * packed, width * packed

    def _packed(self) -> int:
        """Latents along a side that the pipeline makes one token of, by the channels that the network returns."""
        config = self.denoiser.config
        channels = config.get("out_channels") or config.get("in_channels") or 0
        side = math.isqrt(channels // self.latent_channels())
        return side if side and side**2 * self.latent_channels() == channels else 1

    def latent_channels(self) -> int:
        """Channels of the VAE's latents."""
        config = self.pipeline.vae.config
        return config.get("latent_channels") or config.get("z_dim")

    def check_shape(self, shape: Shape) -> Shape:
        """The shape it will generate. Raises UserError for an impossible one."""
        given = [name for name in ("frames", "fps") if getattr(shape, name) is not None]
        if given and self.modality == "image":
            raise UserError(f"model.{given[0]}: {self.pipeline_class} makes images, which have none")
        if shape.height is None or shape.width is None:
            raise UserError("model.resolution: this model's configuration does not say what it was trained for; set it")
        for name, side, factor in zip(("height", "width"), shape.size, self.side_factors(), strict=True):
            if side % factor:
                near = max(1, side // factor) * factor
                raise UserError(f"model.resolution: a {name} of {side} is not a multiple of {factor}, which "
                                f"{self.pipeline_class} needs; use {near} or {near + factor}")
        return shape

    def side_factors(self) -> tuple[int, ...]:
        """What height and width must be multiples of."""
        return tuple(math.lcm(self.vae_factor * patch, self.sides_multiple_of) for patch in self.patch()[1:])

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
        return self.latent_channels(), self.shape.height // self.vae_factor, self.shape.width // self.vae_factor

    def tokens(self) -> int | None:
        """Tokens of one sample in the network; None where it has no tokens (U-Nets)."""
        if self.denoiser_name == "unet":
            return None
        _, height, width = self.patch()
        return math.prod(self.latent_shape()[-2:]) // (height * width)
