"""Latents and text embeddings, computed once and kept on disk under keys made from their content.

A key covers the image's or video's pixels (or the prompt's text) and all that encodes them: every weight, the
tokenizers, precision, shape, and the pipeline's settings; so a cache may be shared by runs, models and processes. Each
is encoded alone, since other samples in a batch change the last digits, and training must not depend on which of them
were cached before. Files are written under a temporary name and renamed.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator
from visalign.generators.observe.rows import stack
from visalign.media.samples import Media, Video, frames_of
from visalign.media.source_images import split_prompt, with_sources
from visalign.sampling.fingerprint import fingerprint, of_pipeline, words
from visalign.storage.weights import write_tensors

WAY = 3
"""Incremented whenever pixels or prompts are prepared differently."""


class EncodingCache:
    """Encodes what is not on disk yet with a generator.

    folder: of the cache; created when missing. Raises UserError when it cannot be written.
    """

    def __init__(self, folder: str | Path, generator: Generator):
        self.folder, self.generator = Path(folder).expanduser(), generator
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache {self.folder}: cannot be created ({error.strerror})") from None
        vae = fingerprint(generator.pipeline.vae)
        self._vae = f"{WAY} {vae} {generator.shape}"
        pipeline = generator.pipeline
        encoders = {name: vae if module is pipeline.vae else fingerprint(module)
                    for name, module in sorted(generator.prompt_encoders().items())}
        processors = {name: words(part) for name, part in sorted(pipeline.components.items())
                      if part is not None and name.startswith(("tokenizer", "image_processor", "feature_extractor"))}
        self._text = f"{WAY} {encoders} {processors} {of_pipeline(pipeline)} {generator.compute_dtype} " \
                     f"{generator.prompt_tokens} "

    def media_key(self, media: Media) -> str:
        digest = hashlib.sha256(f"{self._vae} {media.fps if isinstance(media, Video) else ''}".encode())
        for frame in frames_of(media, 1_000_000):
            digest.update(f"{frame.size}".encode() + frame.tobytes())
        return digest.hexdigest()

    def prompt_key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._text}{self.generator.prompt_identity(prompt)}".encode()).hexdigest()

    def negative_key(self, prompt: str, negative_prompt: str | None) -> str:
        """Of what guidance leads a prompt away from: the same for all prompts without source images."""
        identity = self.generator.prompt_identity(with_sources(negative_prompt or "", split_prompt(prompt)[1]))
        return hashlib.sha256(f"negative {negative_prompt is None} {self._text}{identity}".encode()).hexdigest()

    def add_media(self, media: dict[str, Media]) -> None:
        """Encode images or videos, by key, that are not cached yet."""
        for key, each in media.items():
            if self._read(key) is None:
                [latents] = self.generator.encode_media(self.generator.to_pixels([each]))
                self._write(key, {"latents": latents.cpu()})

    def add_prompts(self, prompts: dict[str, str]) -> None:
        """Encode prompts, by key, that are not cached yet."""
        for key, prompt in prompts.items():
            if self._read(key) is None:
                conditioning = self.generator.encode_prompts([prompt])
                self._write(key, {name: tensor[0].cpu() for name, tensor in conditioning.items()})

    def add_negatives(self, prompts: dict[str, str], negative_prompt: str | None) -> None:
        """Encode, by `negative_key`, what guidance leads these prompts away from."""
        for key, prompt in prompts.items():
            if self._read(key) is None:
                conditioning = self.generator.encode_negatives([prompt], negative_prompt)
                self._write(key, {name: tensor[0].cpu() for name, tensor in conditioning.items()})

    def latents(self, keys: list[str]) -> Tensor:
        """float32 [B, C, (F,) H, W] on the CPU."""
        return torch.stack([self._need(key)["latents"] for key in keys])

    def conditioning(self, keys: list[str]) -> Conditioning:
        return stack([self._need(key) for key in keys])

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _need(self, key: str) -> dict[str, Tensor]:
        entry = self._read(key)
        if entry is None:
            raise UserError(f"data.cache {self._path(key)}: this entry disappeared or broke during the run; start "
                            "again to recompute it")
        return entry

    def _read(self, key: str) -> dict[str, Tensor] | None:
        try:
            return load_file(self._path(key))
        except (FileNotFoundError, SafetensorError):
            return None

    def _write(self, key: str, entry: dict[str, Tensor]) -> None:
        path = self._path(key)
        try:
            path.parent.mkdir(exist_ok=True)
            write_tensors(path, entry)
        except OSError as error:
            raise UserError(f"data.cache {self.folder}: cannot be written ({error})") from None
