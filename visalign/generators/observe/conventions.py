"""What is to be known of a pipeline to train it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from visalign.generators.observe.arguments import ArgumentPath, Layout
from visalign.generators.observe.guidance import GuidanceRule
from visalign.generators.observe.latents import Selection
from visalign.generators.observe.rows import Padding
from visalign.generators.observe.times import TimeRule


@dataclass(frozen=True)
class VaeMap:
    """z = offset + scale x latents, z being what the VAE decodes, in z's own shape.

    scale, offset: [1, ...], shortened along axes where they are constant. arguments, options: the rest of that call.
    frames: of a VAE of images that decodes a video's frames as a batch; z is then [B x frames, ...].
    """

    scale: Tensor
    offset: Tensor
    arguments: tuple
    options: dict[str, Any]
    frames: int | None = None

    def to_vae(self, latents: Tensor) -> Tensor:
        """z of latents [B, ...], float32."""
        z = latents.float() * self.scale + self.offset
        return z if self.frames is None else z.movedim(2, 1).flatten(0, 1)

    def from_vae(self, z: Tensor) -> Tensor:
        """Latents [B, ...] of z, float32."""
        z = z.float() if self.frames is None else z.float().unflatten(0, (-1, self.frames)).movedim(1, 2)
        return (z - self.offset) / self.scale

    def encoded(self, vae: nn.Module, pixels: Tensor) -> Tensor:
        """Latents [B, ...] of pixels [B, 3, (F,) H, W]: the posterior's mean; one frame for a VAE of videos."""
        pixels = pixels.to(vae.dtype)
        if vae.config.get("in_channels") == 4:  # of images with transparency: nothing is transparent
            pixels = torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)
        if self.frames is not None:
            pixels = pixels.movedim(2, 1).flatten(0, 1)
        elif pixels.ndim != self.scale.ndim:
            pixels = pixels[:, :, None]
        output = vae.encode(pixels)
        return self.from_vae(output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latent)

    def decoded(self, vae: nn.Module, latents: Tensor, flat: bool) -> Tensor:
        """Pixels [B, 3, (F,) H, W] of latents [B, ...]. flat: without an axis of frames."""
        z = self.to_vae(latents).to(vae.dtype)
        arguments = [_of_batch(value, len(z)) for value in self.arguments]
        output = vae.decode(z, *arguments, **{name: _of_batch(value, len(z)) for name, value in self.options.items()})
        pixels = (output[0] if isinstance(output, tuple) else getattr(output, "sample", output)).float()
        if pixels.ndim == 5 and pixels.shape[1] != 3 and pixels.shape[2] == 3:  # some VAEs have frames before colours
            pixels = pixels.transpose(1, 2)
        pixels = pixels[:, :3]
        if self.frames is not None:
            return pixels.unflatten(0, (-1, self.frames)).movedim(1, 2)
        return pixels.squeeze(2) if flat and pixels.ndim == 5 else pixels


def _of_batch(value: Any, count: int) -> Any:
    """An argument for one sample, for `count` of them."""
    return value.expand(count, *value.shape[1:]) if isinstance(value, Tensor) and value.shape[:1] == (1,) else value


@dataclass
class Conventions:
    """Latents are [B, *shape], in the order of what the VAE decodes, with the scheduler's values.

    latents: path of the argument that they are; to_network: from latents to it.
    from_output: from the network's output to latents, in the process's sign.
    to_rule: from latents to the scheduler's own order, in which guidance is combined; from_rule: back.
    times: the arguments that depend on time.
    embedded: arguments that are a multiple of the guidance scale.
    companions: further latents (a video's sound), which follow the noise level and are not trained.
    given: latents, bool [*shape], in whose place the network sees the prompt's own (a first frame); None without any.
    wanted_place: of the conditional prediction among the two of a step.
    off: options without guidance. blank: the negative prompt of those who give none.
    template: a recorded output of the network for template_rows samples.
    padding: None where prompts of different lengths cannot share a pass.
    """

    shape: tuple[int, ...]
    latents: ArgumentPath
    to_network: Selection
    from_output: Selection
    to_rule: Selection
    from_rule: Selection
    layout: Layout
    times: dict[ArgumentPath, TimeRule]
    vae: VaeMap
    as_list: bool = False
    embedded: dict[ArgumentPath, float] = field(default_factory=dict)
    companions: frozenset[ArgumentPath] = frozenset()
    given: Tensor | None = None
    guidance: GuidanceRule | None = None
    wanted_place: int = 1
    off: dict[str, float] = field(default_factory=dict)
    template: Any = None
    template_rows: int = 1
    blank: str | None = None
    padding: Padding | None = None
