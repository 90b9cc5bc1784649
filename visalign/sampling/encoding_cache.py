"""Latents and text embeddings, computed once and kept on disk under keys made from their content.

A key covers the image's or video's pixels (or the prompt's text) and all that encodes them: every weight, the
tokenizers, precision, shape, the pipeline's settings, and how they are stored; so a cache may be shared by runs, models
and processes. Each is encoded alone, since other samples in a batch change the last digits, and training must not
depend on which of them were cached before. Media that were seen before are known without decoding them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from visalign.errors import UserError, notice
from visalign.generators.base import Conditioning, Generator
from visalign.generators.observe.rows import stack
from visalign.media.fitting import fit_of
from visalign.media.samples import Media, Video, frames_of
from visalign.media.source_images import split_prompt, with_sources
from visalign.sampling.compact import compact, restored
from visalign.sampling.fingerprint import fingerprint, of_pipeline, words
from visalign.storage.files import full_disk_told
from visalign.storage.shards import ShardStore

WAY = 4
"""Incremented whenever pixels or prompts are prepared differently."""

STORED = {"fp32": None, "bf16": torch.bfloat16}
"""What numbers are rounded to, by data.cache_dtype; None: they are kept as they were computed."""


@dataclass(frozen=True)
class KnownMedia:
    """What is known of stored media that were decoded before: their key, and the speed at which motion is learnt."""

    key: str
    speed: float


def stored_as(cache_dtype: str, compute_dtype: torch.dtype) -> str:
    """`auto` is bf16 where the arithmetic is."""
    return cache_dtype if cache_dtype != "auto" else "bf16" if compute_dtype == torch.bfloat16 else "fp32"


class EncodingCache:
    """Encodes what is not on disk yet with a generator.

    folder: of the cache; created when missing. dtype: data.cache_dtype. What is added can be read at once, and by other
    processes after `share`. Raises UserError when the folder cannot be used.
    """

    def __init__(self, folder: str | Path, generator: Generator, dtype: str = "auto"):
        self.folder, self.generator = Path(folder).expanduser(), generator
        stored = stored_as(dtype, generator.compute_dtype)
        self._rounded_to = STORED[stored]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.store = ShardStore(self.folder)
        except OSError as error:
            raise UserError(f"data.cache {self.folder}: cannot be created ({error.strerror})") from None
        _tell_of_older_files(self.folder)
        vae = fingerprint(generator.pipeline.vae)
        self._vae = f"{WAY} {stored} {vae}"
        pipeline = generator.pipeline
        encoders = {name: vae if module is pipeline.vae else fingerprint(module)
                    for name, module in sorted(generator.prompt_encoders().items())}
        processors = {name: words(part) for name, part in sorted(pipeline.components.items())
                      if part is not None and name.startswith(("tokenizer", "image_processor", "feature_extractor"))}
        self._text = f"{WAY} {stored} {encoders} {processors} {of_pipeline(pipeline)} {generator.compute_dtype} " \
                     f"{generator.prompt_tokens} "

    def media_key(self, media: Media) -> str:
        rate = media.fps if isinstance(media, Video) else ""
        digest = hashlib.sha256(f"{self._vae} {self.generator.shape} {rate}".encode())
        for frame in frames_of(media, 1_000_000):
            digest.update(f"{frame.size}".encode() + frame.tobytes())
        return digest.hexdigest()

    def prompt_key(self, prompt: str) -> str:
        return hashlib.sha256(f"{self._text}{self.generator.prompt_identity(prompt)}".encode()).hexdigest()

    def negative_key(self, prompt: str, negative_prompt: str | None) -> str:
        """Of what guidance leads a prompt away from: the same for all prompts without source images."""
        identity = self.generator.prompt_identity(with_sources(negative_prompt or "", split_prompt(prompt)[1]))
        return hashlib.sha256(f"negative {negative_prompt is None} {self._text}{identity}".encode()).hexdigest()

    def known(self, identity: str) -> KnownMedia | None:
        """What was remembered of stored media; None where they have to be decoded."""
        text = self.store.noted(self._note(identity))
        return KnownMedia(**json.loads(text)) if text else None

    def remember(self, identity: str, known: KnownMedia) -> None:
        """Know media without decoding them next time. identity: tells them from others as they are stored."""
        self.store.note(self._note(identity), json.dumps(asdict(known)))

    def _note(self, identity: str) -> str:
        return hashlib.sha256(f"{self._vae} {self.generator.shape} {identity}".encode()).hexdigest()

    def holds(self, keys: Iterable[str]) -> bool:
        """Whether all of these are cached, so that nothing has to be encoded for them."""
        return all(key in self.store for key in keys)

    def add_media(self, media: dict[str, Media]) -> None:
        """Encode images or videos, by key, that are not cached yet."""
        self._add(media, self._encoded)

    def _encoded(self, media: Media) -> dict[str, Tensor]:
        [latents] = self.generator.encode_media(self.generator.to_pixels([media]))
        if isinstance(media, Video):
            return {"latents": latents}
        fit = fit_of(media.size[::-1], self.generator.shape.size)
        return {"latents": latents, "fit": torch.tensor(fit.numbers, dtype=torch.int32)}

    def add_prompts(self, prompts: dict[str, str]) -> None:
        """Encode prompts, by key, that are not cached yet."""
        self._add(prompts, lambda each: _only(self.generator.encode_prompts([each])))

    def add_negatives(self, prompts: dict[str, str], negative_prompt: str | None) -> None:
        """Encode, by `negative_key`, what guidance leads these prompts away from."""
        self._add(prompts, lambda each: _only(self.generator.encode_negatives([each], negative_prompt)))

    def add_features(self, media: dict[str, Media], features: Callable[[Media], Tensor]) -> None:
        """Keep what another network than the generator makes of media, by key, exactly and as it is computed."""
        for key in [key for key in media if key not in self.store]:
            with self._writing():
                self.store.put(key, compact({"features": features(media[key]).cpu()}))

    def features(self, keys: list[str]) -> Tensor:
        """What `add_features` kept, [B, D] on the CPU."""
        return torch.stack([self._need(key)["features"] for key in keys])

    def _add(self, wanted: dict, encode: Callable[..., dict[str, Tensor]]) -> None:
        for key, each in wanted.items():
            if key not in self.store:
                entry = {name: tensor.cpu() for name, tensor in encode(each).items()}
                with self._writing():
                    self.store.put(key, compact(entry, self._rounded_to))

    def share(self) -> None:
        """Write what was added for other processes, and for a later start."""
        with self._writing():
            self.store.flush()

    def find_shared(self) -> None:
        """Take in what other processes have shared."""
        self.store.refresh()

    def latents(self, keys: list[str]) -> Tensor:
        """float32 [B, C, (F,) H, W] on the CPU."""
        return torch.stack([self._need(key)["latents"] for key in keys])

    def fits(self, keys: list[str]) -> Tensor:
        """`Fitting.numbers` of images [B, 6]: how each came to the size of its latents."""
        return torch.stack([self._need(key)["fit"] for key in keys])

    def conditioning(self, keys: list[str]) -> Conditioning:
        found = {key: self._need(key) for key in dict.fromkeys(keys)}
        return stack([found[key] for key in keys])

    def _need(self, key: str) -> dict[str, Tensor]:
        entry = self.store.get(key)
        if entry is None:
            raise UserError(f"data.cache {self.folder}: the entry {key} disappeared or broke during the run; start "
                            "again to recompute it")
        return restored(entry)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with full_disk_told(f"data.cache {self.folder}", self.folder):
                yield
        except OSError as error:
            raise UserError(f"data.cache {self.folder}: cannot be written ({error.strerror or error})") from None


def _only(batch: Conditioning) -> dict[str, Tensor]:
    """The one sample of a batch."""
    return {name: tensor[0] for name, tensor in batch.items()}


def _tell_of_older_files(folder: Path) -> None:
    if any(folder.glob("[0-9a-f][0-9a-f]/*.safetensors")):
        notice(f"data.cache {folder}: has files of visalign 0.3 or older, one for each image and prompt, which are not "
               f"read any more; remove them with: rm -r {folder}/[0-9a-f][0-9a-f]")
