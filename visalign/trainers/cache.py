"""Latents and text embeddings, computed once and kept on disk under keys made from their content.

A key covers the picture's or clip's pixels (or the prompt's text), the encoder's weights and the settings that matter,
so a cache may be shared by runs, models and processes. Files are written under a temporary name and renamed.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.base import Conditioning, Generator
from visalign.media import Media, frames_of
from visalign.weights import write_tensors


def fingerprint(modules: list[nn.Module]) -> str:
    """A hash of architectures and of samples of all weights."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(str(sorted(getattr(module, "config", {}).items())
                          if isinstance(getattr(module, "config", None), dict) else type(module)).encode())
        for name, parameter in module.named_parameters():
            flat = parameter.detach().flatten()
            sampled = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
            digest.update(f"{name}{tuple(parameter.shape)}".encode() + sampled.numpy().tobytes())
    return digest.hexdigest()


class EncodingCache:
    """Encodes through a generator what is not on disk yet.

    folder: where; created when missing. Raises UserError when it cannot be written.
    """

    def __init__(self, folder: str | Path, generator: Generator):
        self.folder, self.generator = Path(folder).expanduser(), generator
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"data.cache {self.folder}: cannot be created ({error.strerror})") from None
        self._vae = fingerprint([generator.pipeline.vae]) + str(generator.shape)
        self._text = fingerprint(generator.text_encoders()) + str(generator.prompt_tokens)

    def media_key(self, media: Media) -> str:
        digest = hashlib.sha256(self._vae.encode())
        for frame in frames_of(media, 1_000_000):
            digest.update(f"{frame.size}".encode() + frame.tobytes())
        return digest.hexdigest()

    def prompt_key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._text}{self.generator.prompt_identity(prompt)}".encode()).hexdigest()

    def add_media(self, media: dict[str, Media]) -> None:
        """Encode pictures or clips, by key, that are not cached yet."""
        missing = [key for key in media if self._read(key) is None]
        if missing:
            latents = self.generator.encode_media(self.generator.to_pixels([media[key] for key in missing]))
            for key, value in zip(missing, latents.cpu(), strict=True):
                self._write(key, {"latents": value})

    def add_prompts(self, prompts: dict[str, str]) -> None:
        """Encode prompts, by key, that are not cached yet."""
        missing = [key for key in prompts if self._read(key) is None]
        if missing:
            conditioning = self.generator.encode_prompts([prompts[key] for key in missing])
            for i, key in enumerate(missing):
                self._write(key, {name: tensor[i].cpu() for name, tensor in conditioning.items()})

    def latents(self, keys: list[str]) -> Tensor:
        """float32 [B, C, (F,) H, W] on the CPU."""
        return torch.stack([self._need(key)["latents"] for key in keys])

    def conditioning(self, keys: list[str]) -> Conditioning:
        rows = [self._need(key) for key in keys]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _need(self, key: str) -> dict[str, Tensor]:
        entry = self._read(key)
        if entry is None:
            raise UserError(f"data.cache {self._path(key)}: this entry vanished or broke during the run; start again "
                            "and it will be computed anew")
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
