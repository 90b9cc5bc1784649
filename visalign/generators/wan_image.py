"""Wan image to video: the first frame is given. A prompt is `words@@image file`."""

import torch
from PIL import Image
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.base import Conditioning
from visalign.generators.wan import WanGenerator
from visalign.media.samples import to_pixels
from visalign.media.source_images import (
    SEPARATOR,
    SourceCount,
    source_images_of,
    sources_key,
    split_prompt,
    words_of,
)


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
        SourceCount("image to video").check(prompts, where)

    def text_of(self, prompt: str) -> str:
        return words_of(prompt)

    def prompt_identity(self, prompt: str) -> str:
        words, files = split_prompt(prompt)
        return f"{words}{SEPARATOR}{sources_key(files)} {self.shape}" if files else words

    def prompt_encoders(self) -> dict[str, nn.Module]:
        images = {"vae": self.pipeline.vae, "image_encoder": self.pipeline.image_encoder}
        return super().prompt_encoders() | {name: m for name, m in images.items() if m is not None}

    def latent_shape(self) -> tuple[int, ...]:
        return self.pipeline.vae.config.z_dim, *super().latent_shape()[1:]

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """Text alone (for guidance) has no image part. Raises UserError when only some prompts have one."""
        texts = super().encode_prompts([words_of(prompt) for prompt in prompts])
        if not any(split_prompt(prompt)[1] for prompt in prompts):
            return texts
        self.check_prompts(prompts, "prompt")
        images = [image for prompt in prompts for image in source_images_of(prompt)]
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
        [image] = source_images_of(prompts[0])
        return {"prompt": [words_of(prompts[0])], "image": image}
