"""Wan image to video: the first frame is given. A prompt is `words@@image file`."""

import hashlib
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.base import Conditioning
from visalign.generators.wan import WanGenerator
from visalign.media.image_files import read_image
from visalign.media.samples import to_pixels

SEPARATOR = "@@"


def split(prompt: str) -> tuple[str, Path | None]:
    """Words and image of a prompt."""
    words, separator, file = prompt.partition(SEPARATOR)
    return words.strip(), Path(file.strip()).expanduser() if separator else None


class WanImageGenerator(WanGenerator):
    """Wan 2.1 (with a CLIP view of the image) and Wan 2.2 14B. The image's latents are concatenated with the noisy
    ones.

    Conditioning has `condition` [B, c, f, h, w]: a mask of what is given, and latents of the first frame; and with Wan
    2.1 `image_embeds` [B, n, d].
    """

    pipeline_class = "WanImageToVideoPipeline"
    prompts_a_call = 1

    @classmethod
    def check_prompts(cls, prompts: list[str], where: str) -> None:
        for prompt in prompts:
            _, file = split(prompt)
            if file is None or not file.is_file():
                what = "names no image" if file is None else f"names {file}, which does not exist"
                raise UserError(f"{where} '{prompt}': {what}; image to video takes 'words{SEPARATOR}image file'")

    def text_of(self, prompt: str) -> str:
        return split(prompt)[0]

    def prompt_identity(self, prompt: str) -> str:
        words, file = split(prompt)
        if file is None:
            return words
        return f"{words}{SEPARATOR}{hashlib.sha256(file.read_bytes()).hexdigest()} {self.shape}"

    def prompt_encoders(self) -> dict[str, nn.Module]:
        images = {"vae": self.pipeline.vae, "image_encoder": self.pipeline.image_encoder}
        return super().prompt_encoders() | {name: m for name, m in images.items() if m is not None}

    def latent_shape(self) -> tuple[int, ...]:
        return self.pipeline.vae.config.z_dim, *super().latent_shape()[1:]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """Text alone (for guidance) has no image part. Raises UserError when only some prompts have one."""
        words, files = zip(*map(split, prompts), strict=True)
        texts = super().encode_prompts(list(words))
        if all(file is None for file in files):
            return texts
        self.check_prompts(prompts, "prompt")
        images = [read_image(file, str(file)) for file in files]
        return texts | {"condition": self._condition(images)} | self._views(images)

    def _condition(self, images: list[Image.Image]) -> Tensor:
        shape, step = self.shape, self.temporal_factor()
        first = to_pixels(images, (shape.height, shape.width))[:, :, None]
        pixels = torch.cat([first, first.new_zeros(1, 1, 1, 1, 1).expand(
            len(images), 3, shape.frames - 1, shape.height, shape.width)], 2)
        latents = self.encode_media(pixels)
        given = latents.new_zeros(len(images), step, *latents.shape[2:])
        given[:, :, 0] = 1
        return torch.cat([given, latents], 1)

    def _views(self, images: list[Image.Image]) -> Conditioning:
        if self.pipeline.transformer.config.image_dim is None:
            return {}
        with self.arithmetic():
            return {"image_embeds": torch.cat([self.pipeline.encode_image(image, self.device).float()
                                               for image in images])}

    def _inputs(self, latents: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        both = torch.cat([latents, conditioning["condition"].to(latents.dtype)], 1)
        inputs = super()._inputs(latents, conditioning) | {"hidden_states": both}
        if "image_embeds" in conditioning:
            inputs["encoder_hidden_states_image"] = conditioning["image_embeds"].to(latents.dtype)
        return inputs

    @classmethod
    def check_pipeline(cls, settings: dict) -> None:
        if settings.get("expand_timesteps"):
            raise UserError("Wan 2.2 5B's way from image to video (a time for each token) is not supported; use it as "
                            "text to video, or an image-to-video checkpoint of 14B")

    def _prompt_options(self, prompts: list[str]) -> dict:
        words, file = split(prompts[0])
        return {"prompt": [words], "image": read_image(file, str(file))}
