"""A diffusers pipeline behind one small protocol. Families differ in how they encode prompts and call the network."""

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from visalign.errors import UserError
from visalign.generators.adapters import add_lora, check_targets, outputs_of, scale_lora
from visalign.generators.kernels import kernel, recomputing
from visalign.generators.lora_files import attach, changes_nothing, fit_lora
from visalign.generators.schedulers import trained_flow
from visalign.generators.shape import Shape
from visalign.generators.sizes import Sized
from visalign.media.samples import Media, Video, to_pixels
from visalign.processes import Diffusion, Flow

VAE_PIXELS = 2**25
"""Pixels of all frames that pass through the VAE together: 32 images of 1024x1024, or one video of 81 x 480x832."""

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps) after each sampling step of a batch."""

Conditioning = dict[str, Tensor]
"""Named embeddings of prompts, batch first, as the network takes them."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance u + scale (c - u), u from the `negative` conditioning [B, ...].

    Entries that `negative` lacks (the image of an image-to-video prompt) are the prompt's own.

    Guidance-distilled families take the scale as an input instead. detach_negative: no gradient through u.
    """

    scale: float
    negative: Conditioning | None = None
    detach_negative: bool = True

_KINDS = {"image": "an image", "video": "a video"}


class Generator(Sized):
    """One loaded pipeline, ready to sample and, after `make_trainable`, to learn.

    A family defines `pipeline_class`, `process_kind`, `denoiser_name`, `lora_targets`, `process_of`,
    `default_steps`, `default_guidance_scale`, `encode_prompts`, `_call_network` and `_sampling_options`.
    """

    process_kind: ClassVar[str]
    denoiser_name: ClassVar[str]
    denoiser_class: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...]]
    default_steps: ClassVar[int]  # as its authors sample it
    default_guidance_scale: ClassVar[float]
    embedded_guidance: ClassVar[float | None] = None  # a guidance-distilled family's default scale
    unneeded: ClassVar[dict] = {}  # parts of the pipeline that are never loaded, and their settings
    droppable: ClassVar[tuple[str, ...]] = ()  # parts that the pipeline can run without, all or none
    prompts_a_call: ClassVar[int | None] = None  # most prompts the pipeline takes at once
    used_apart: ClassVar[tuple[str, ...]] = ()  # networks of which a batch may use only some
    has_kohya_names: ClassVar[bool] = False  # whether user interfaces use kohya names for this family's LoRA

    def __init__(self, pipeline, *, device: torch.device, compute_dtype: torch.dtype = torch.float32,
                 attention: str = "native", shape: Shape | None = None, prompt_tokens: int | None = None):
        self.pipeline = pipeline
        self.device = device
        self.compute_dtype = compute_dtype
        self.attention = attention
        self.denoiser: nn.Module = self.find_denoiser(pipeline)
        self.prompt_tokens = self.check_prompt_tokens(prompt_tokens)
        self.policy: nn.Module = self.denoiser
        self.tuning: str | None = None
        self._frozen_copy: nn.Module | None = None
        self._in_reference = False
        self.vae_factor = self.spatial_factor()
        self.shape = self.check_shape((shape or Shape()).or_else(self.default_shape()))
        self.passes: Counter[str] = Counter()
        self.process: Diffusion | Flow = self.process_of(pipeline.scheduler)
        pipeline.set_progress_bar_config(disable=True)
        for module in self.frozen_modules():
            module.requires_grad_(False)
            module.eval()
        self.denoiser.requires_grad_(False)
        self.denoiser.eval()
        if attention == "xformers":
            self.denoiser.enable_xformers_memory_efficient_attention()

    def find_denoiser(self, pipeline) -> nn.Module:
        """The module that is trained."""
        return getattr(pipeline, self.denoiser_name)

    def networks(self) -> dict[str, nn.Module]:
        """The denoiser's networks by their names in the pipeline; more than one where experts share the noise range."""
        return {self.denoiser_name: self.denoiser}

    @classmethod
    def process_of(cls, scheduler) -> Diffusion | Flow:
        """The process a checkpoint with this scheduler was trained with; UserError for one that is not supported."""
        return trained_flow(scheduler)

    @classmethod
    def check_pipeline(cls, settings: dict) -> None:
        """Raise UserError for a checkpoint of an unsupported kind, by its model_index.json."""

    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """Embeddings of prompts, each tensor [B, ...], in float32 on the device."""
        raise AttributeError(f"{type(self).__name__} does not define encode_prompts")

    @classmethod
    def check_prompts(cls, prompts: list[str], where: str) -> None:
        """Raise UserError naming `where` for a prompt that this family cannot take; loads nothing."""

    def text_of(self, prompt: str) -> str:
        """The text of a prompt, which is what rewards see."""
        return prompt

    def prompt_identity(self, prompt: str) -> str:
        """What distinguishes one prompt's conditioning from another's."""
        return prompt

    def _call_network(self, network: nn.Module, latents: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        raise AttributeError(f"{type(self).__name__} does not define _call_network")

    def _sampling_options(self) -> dict:
        """Arguments of the pipeline's call specific to this family."""
        return {}

    def _unpack(self, latents: Tensor) -> Tensor:
        """Latents [B, C, h, w] from the pipeline's own layout."""
        return latents

    @classmethod
    def interface_name(cls, module: str) -> str | None:
        """The name of a layer's LoRA in user interfaces (ComfyUI, Forge), where it has one."""
        return None

    def frozen_modules(self) -> list[nn.Module]:
        """Everything that is never trained: the VAE and the text encoders."""
        return [m for name, m in self.pipeline.components.items()
                if isinstance(m, nn.Module) and name not in self.networks()]

    def text_encoders(self) -> dict[str, nn.Module]:
        """By their names in the pipeline."""
        return {name: m for name, m in self.pipeline.components.items()
                if name.startswith("text_encoder") and isinstance(m, nn.Module)}

    def prompt_encoders(self) -> dict[str, nn.Module]:
        """The networks that `encode_prompts` runs, by name."""
        return self.text_encoders()

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Autocast to the compute type and the chosen attention kernel."""
        with contextlib.ExitStack() as stack:
            enabled = self.compute_dtype != torch.float32
            stack.enter_context(torch.autocast(self.device.type, self.compute_dtype, enabled=enabled))
            stack.enter_context(kernel(self.attention))
            yield

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning,
                guidance: Guidance | None = None) -> Tensor:
        """The network's prediction at latents [B, C, H, W] and process times t [B], float32; guided in one pass.

        `passes` counts the samples passed through, with and without gradients.
        """
        if self.embedded_guidance is not None:
            scale = guidance.scale if guidance else self.embedded_guidance
            return self._pass(latents, t, conditioning | {"guidance": torch.full_like(t, scale, dtype=torch.float32)})
        if guidance is None or guidance.scale == 1 or guidance.negative is None:
            return self._pass(latents, t, conditioning)
        both = {name: torch.cat([guidance.negative.get(name, tensor), tensor]) for name, tensor in conditioning.items()}
        unguided, wanted = self._pass(torch.cat([latents, latents]), torch.cat([t, t]), both).chunk(2)
        unguided = unguided.detach() if guidance.detach_negative else unguided
        return unguided + guidance.scale * (wanted - unguided)

    def _pass(self, latents: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        network = self.policy if not self._in_reference else (self._frozen_copy or self.denoiser)
        self.passes["with gradient" if torch.is_grad_enabled() else "without gradient"] += len(latents)
        with self.arithmetic():
            time = self.process.network_time(t).to(latents.device)
            return self._call_network(network, latents.to(self._network_dtype(network)), time, conditioning).float()

    def blocks(self) -> list[nn.Module]:
        """The network's blocks in the order in which latents pass through them."""
        return list(getattr(self.denoiser, "transformer_blocks", None) or self.denoiser.blocks)

    def _tokens_of(self, output) -> Tensor:
        """A block's output as tokens [B, N, width] of the latents."""
        return output[0] if isinstance(output, tuple) else output

    def features(self, latents: Tensor, t: Tensor, conditioning: Conditioning, blocks: tuple[int, ...]) -> list[Tensor]:
        """Tokens [B, N, width] after the blocks of these numbers, ascending; later blocks are not computed.

        Gradients flow to the latents and, where they are trained, to the weights.
        """
        if self.embedded_guidance is not None:
            conditioning = conditioning | {"guidance": torch.full_like(t, self.embedded_guidance, dtype=torch.float32)}
        modules = self.blocks()

        def run() -> None:
            with self.arithmetic():
                time = self.process.network_time(t).to(latents.device)
                self._call_network(self.denoiser, latents.to(self._network_dtype(self.denoiser)), time, conditioning)

        return [self._tokens_of(output).float() for output in outputs_of([modules[number] for number in blocks], run)]

    def schedule(self, steps: int) -> Tensor:
        """Process times of a sampling run, noisiest first, [steps + 1]."""
        return self.process.schedule(steps)

    @staticmethod
    def _network_dtype(network: nn.Module) -> torch.dtype:
        return getattr(network, "module", network).dtype

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """In this context `predict` is the frozen reference (adapter off, or the frozen copy), without gradients."""
        if self.tuning == "lora":
            self.denoiser.disable_adapters()
        self._in_reference = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._in_reference = False
            if self.tuning == "lora":
                self.denoiser.enable_adapters()

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """In this context: no dropout, the unwrapped network, so that one process may measure while others wait."""
        policy, training = self.policy, self.denoiser.training
        self.policy = self.denoiser.eval()
        try:
            yield
        finally:
            self.policy = policy
            self.denoiser.train(training)

    def make_trainable(self, tuning: str, *, rank: int = 16, alpha: float = 16.0, dropout: float = 0.0,
                       targets: tuple[str, ...] | None = None, gradient_checkpointing: bool = False) -> list[Tensor]:
        """Add a LoRA adapter, or unfreeze all weights and keep a frozen copy; returns the trainable parameters.

        Raises UserError when no module matches `targets`.
        """
        self.tuning = tuning
        if tuning == "lora":
            if targets is not None:
                check_targets(self.denoiser, targets)
            add_lora(self.denoiser, rank, alpha, dropout, targets or self.lora_targets)
        else:
            self._frozen_copy = copy.deepcopy(self.denoiser).to(self.compute_dtype).requires_grad_(False).eval()
            self.denoiser.to(torch.float32).requires_grad_(True)
        if gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing(recomputing(self.attention))
        return [p for _, p in self.trainable_parameters()]

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.denoiser.named_parameters() if p.requires_grad]

    def load_adapter(self, path: Path) -> None:
        """Load a LoRA's folder or file for sampling.

        Raises UserError, leaving the model unchanged, unless every tensor of it fits this model.
        """
        parts = self.networks() | {name: module for name, module in self.pipeline.components.items()
                                   if name in self.pipeline._lora_loadable_modules and name.startswith("text_encoder")}
        found = fit_lora(path, parts, type(self.pipeline), self.denoiser_name)
        for name, pairs in found.items():
            attach(parts[name], pairs)
        if changes_nothing(found):
            tqdm.write(f"lora {path}: all its products are 0, so it changes nothing")

    def unload_adapter(self) -> None:
        """Remove what `load_adapter` loaded."""
        self.pipeline.unload_lora_weights()

    def set_adapter_strength(self, strength: float) -> None:
        """Scale every adapter: 1 is as trained, 0 the model without it."""
        for module in (self.denoiser, *self.text_encoders().values()):
            scale_lora(module, strength)

    def check_media(self, media: Iterable[Media], where: str) -> None:
        """Raise UserError naming `where` for a video given to an image model, or the other way round."""
        for each in media:
            found = "video" if isinstance(each, Video) else "image"
            if found != self.modality:
                raise UserError(f"{where}: holds {_KINDS[found]}, and {self.pipeline_class} makes "
                                f"{self.modality}s")

    def speed_of(self, media: Media) -> float:
        """How many times faster a video plays once resampled to this model's frames and rate; 1 for an image."""
        return 1.0

    def to_pixels(self, media: list[Media]) -> Tensor:
        """Input of `encode_media` at the working shape: [B, 3, H, W] in [-1, 1], for videos [B, 3, F, H, W]."""
        return to_pixels(media, self.shape.size)

    @torch.no_grad()
    def encode_media(self, pixels: Tensor) -> Tensor:
        """Latents of pixels [B, 3, (F,) H, W] in [-1, 1]: the posterior's mean, scaled as the network expects."""
        vae = self.pipeline.vae
        mean, scale = self._latent_statistics()
        parts = [vae.encode(part.to(self.device, vae.dtype)).latent_dist.mode().float()
                 for part in pixels.split(self._at_once())]
        return (torch.cat(parts) - mean) * scale

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, (F,) H, W] in [-1, 1] up to the VAE's overshoot, in its own precision, with gradients."""
        mean, scale = self._latent_statistics()
        return self._decode_scaled((latents.float() / scale + mean).to(self.pipeline.vae.dtype)).float()

    def _decode_scaled(self, latents: Tensor) -> Tensor:
        return self.pipeline.vae.decode(latents).sample

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Media]:
        """Images from latents [B, C, h, w], videos from [B, C, f, h, w]; as many at a time as memory allows."""
        return [media for part in latents.split(self._at_once())
                for media in self._to_media(self.decode_pixels(part).cpu())]

    def _to_media(self, pixels: Tensor) -> list[Media]:
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")

    def _at_once(self) -> int:
        """Samples that pass through the VAE together."""
        height, width = self.shape.size
        return max(1, VAE_PIXELS // (height * width * (self.shape.frames or 1)))

    def _latent_statistics(self) -> tuple[Tensor | float, Tensor | float]:
        config = self.pipeline.vae.config
        if getattr(config, "latents_mean", None) and getattr(config, "latents_std", None):
            ones = [1] * (len(self.latent_shape()) - 1)
            mean, std = (torch.tensor(v, device=self.device).view(1, -1, *ones)
                         for v in (config.latents_mean, config.latents_std))
            return mean, (getattr(config, "scaling_factor", None) or 1.0) / std
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor

    def _prompt_options(self, prompts: list[str]) -> dict:
        """Arguments of the pipeline's call that describe the content."""
        return {"prompt": prompts}

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance_scale: float, batch_size: int = 32,
               negative_prompt: str | None = None, on_step: OnStep | None = None) -> Iterator[list[Media]]:
        """Images or videos for prompts, one seed each, through the pipeline itself; yields one batch at a time.

        Whatever `on_step` raises ends the sampling and propagates.
        """
        batch_size = min(batch_size, self.prompts_a_call or batch_size)
        told = {} if on_step is None else {"callback_on_step_end": _telling(on_step, steps)}
        for start in range(0, len(prompts), batch_size):
            batch, batch_seeds = prompts[start:start + batch_size], seeds[start:start + batch_size]
            noise_sources = [torch.Generator("cpu").manual_seed(seed) for seed in batch_seeds]
            with self.arithmetic():
                latents = self.pipeline(
                    **self._prompt_options(batch), generator=noise_sources, num_inference_steps=steps,
                    guidance_scale=guidance_scale, height=self.shape.height, width=self.shape.width,
                    negative_prompt=None if negative_prompt is None else [negative_prompt] * len(batch),
                    output_type="latent", return_dict=False, **self._sampling_options(), **told)[0]
            yield self.decode(self._unpack(latents))


def _telling(on_step: OnStep, steps: int) -> Callable:
    """`on_step` as a diffusers callback."""
    def callback(pipeline, number: int, time, tensors: dict) -> dict:
        on_step(number + 1, steps)
        return tensors
    return callback
