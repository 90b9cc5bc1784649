"""A diffusers pipeline behind one small protocol. How the pipeline works is learnt by watching it, not written here."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from visalign.errors import UserError, notice
from visalign.generators.hardware.kernels import kernel
from visalign.generators.lora.adapters import outputs_of
from visalign.generators.many_sizes import ManySizes
from visalign.generators.observe.calling import PipelineCall
from visalign.generators.observe.encoding import Encoder
from visalign.generators.observe.observer import observed
from visalign.generators.observe.replay import Replay
from visalign.generators.observe.rows import by_length, join, share_inputs, stack
from visalign.generators.observe.sampling import OnStep, final_latents
from visalign.generators.schedulers import trained_process
from visalign.generators.shape import Shape
from visalign.generators.sizes import Sized
from visalign.generators.tunable import Tunable
from visalign.generators.users import USER
from visalign.media.samples import Media, Video, to_pixels
from visalign.media.source_images import SEPARATOR, SourceCount, sources_key, split_prompt, words_of
from visalign.processes import Diffusion, Flow
from visalign.storage.out_of_memory import memory_told

VAE_PIXELS = 2**21
"""Pixels of all frames that pass through the VAE together: 2 images of 1024x1024, for which SDXL's takes 6 GiB."""

Conditioning = dict[str, Tensor]
"""Everything that the network takes beside latents, time and guidance, by the names of its arguments, batch first; and
USER, where it is told of one."""


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance u + scale (c - u), u from the `negative` conditioning [B, ...].

    Guidance-distilled families take the scale as an input instead. detach_negative: no gradient through u. apart: u and
    c in a pass each, of which that of a detached u keeps no activations; so they are with a negative adapter, which u
    alone is predicted with.
    """

    scale: float
    negative: Conditioning | None = None
    detach_negative: bool = True
    apart: bool = False

_KINDS = {"image": "an image", "video": "a video"}


class Generator(Tunable, Sized, ManySizes):
    """One loaded pipeline, ready to sample and, after `make_trainable`, to learn.

    A family is a subclass that sets what cannot be observed; one without hints is made by `family_of`.
    """

    process_kind: ClassVar[str]
    denoiser_class: ClassVar[str]
    default_steps: ClassVar[int]  # as its authors sample it
    default_guidance_scale: ClassVar[float]
    call_options: ClassVar[dict[str, Any]] = {}  # arguments of the pipeline's call, always given
    blank_prompt: ClassVar[str | None] = None  # the negative prompt of those who give none
    sources: ClassVar[SourceCount | None] = None  # of source images in a prompt
    vae_batch: ClassVar[int | None] = None  # samples that its VAE takes together, None: as many as memory allows
    unneeded: ClassVar[dict] = {}  # parts of the pipeline that are never loaded, and their settings
    needs_tiling: ClassVar[bool] = False  # whether the VAE works on tiles only
    droppable: ClassVar[tuple[str, ...]] = ()  # parts that the pipeline can run without, all or none
    exact_vae: ClassVar[bool] = False  # whether its VAE's activations are too large for half precision
    used_apart: ClassVar[tuple[str, ...]] = ()  # networks of which a batch may use only some
    rises: ClassVar[bool] = False  # whether its noise levels run from 0 for noise to 1 for data
    text_first: ClassVar[bool] = False  # whether a block returns the text's tokens before the latents'
    interface_prefix: ClassVar[str | None] = None  # of layer names in user interfaces that else have diffusers'
    has_kohya_names: ClassVar[bool] = False  # whether user interfaces use kohya names for this family's LoRA

    def __init__(self, pipeline, *, device: torch.device, compute_dtype: torch.dtype = torch.float32,
                 attention: str = "native", shape: Shape | None = None, prompt_tokens: int | None = None,
                 call: Mapping[str, Any] | None = None, guided: bool = True, vae_precision: str = "fp32"):
        self.pipeline = pipeline
        self.device = device
        self.compute_dtype = compute_dtype
        self.attention, self.vae_precision = attention, vae_precision
        self.denoiser: nn.Module = self.find_denoiser(pipeline)
        self.prompt_tokens = self.check_prompt_tokens(prompt_tokens)
        self.policy: nn.Module = self.denoiser
        self.vae_factor = self.spatial_factor()
        self.shape = self.check_shape((shape or Shape()).or_else(self.default_shape()))
        self.passes: Counter[str] = Counter()
        self._dtypes: dict[tuple[int, torch.dtype], torch.dtype] = {}
        self.process: Diffusion | Flow = self.process_of(pipeline.scheduler)
        self.call = PipelineCall(pipeline, self.shape, self.prompt_tokens, self.sources is not None,
                                 dict(self.call_options) | dict(call or {}), self.blank_prompt, guided,
                                 type(self).at_size)
        pipeline.set_progress_bar_config(disable=True)
        for module in self.frozen_modules():
            module.requires_grad_(False)
            module.eval()
        self.denoiser.requires_grad_(False)
        self.denoiser.eval()
        if attention == "xformers":
            self.denoiser.enable_xformers_memory_efficient_attention()

    def observe(self) -> None:
        """Learn the pipeline's conventions. Raises UserError naming one that is not understood."""
        with self.arithmetic():
            self.conventions = observed(self.pipeline, self.process, self.networks(), self.call)
        self._check_observed_shape()
        self.replay = Replay(self.conventions)
        self.encoder = Encoder(self.pipeline, self.networks(), self.call, self.replay)

    def _check_observed_shape(self) -> None:
        """Raise UserError where the pipeline works at another size than it was asked for."""
        rows, columns = (side * self.vae_factor for side in self.conventions.shape[-2:])
        halvings = len(self.pipeline.vae.config.get("block_out_channels") or [0]) - 1  # some factors count patches too
        if self.shape.size not in ((rows, columns), tuple(side * 2**halvings for side in self.conventions.shape[-2:])):
            raise UserError(f"model.resolution: {self.pipeline_class} was asked for {self.shape.size[0]}x"
                            f"{self.shape.size[1]} and works at {rows}x{columns}; ask for that, or for another")

    def find_denoiser(self, pipeline) -> nn.Module:
        """The module that is trained."""
        return getattr(pipeline, self.denoiser_name)

    @classmethod
    def process_of(cls, scheduler) -> Diffusion | Flow:
        """The process a checkpoint with this scheduler was trained with; UserError for one that is not supported."""
        return trained_process(cls.process_kind, scheduler)

    @staticmethod
    def at_size(pipeline, shape: Shape) -> contextlib.AbstractContextManager:
        """Within it the pipeline works at a shape that its call does not take as arguments."""
        return contextlib.nullcontext()

    @classmethod
    def check_pipeline(cls, settings: dict) -> None:
        """Raise UserError for a checkpoint of an unsupported kind, by its model_index.json."""

    @memory_told("encoding prompts")
    def encode_prompts(self, prompts: list[str]) -> Conditioning:
        """The conditioning of prompts, each tensor [B, ...]; one without words is the negative of guidance."""
        with self.arithmetic():
            return stack([self.encoder.wanted(prompt) if words_of(prompt) else self.encoder.negative(prompt)
                          for prompt in prompts])

    def encode_negatives(self, prompts: list[str], negative_prompt: str | None = None) -> Conditioning:
        """What guidance leads these prompts away from, each tensor [B, ...]."""
        with self.arithmetic():
            return stack([self.encoder.negative(prompt, negative_prompt) for prompt in prompts])

    @classmethod
    def check_prompts(cls, prompts: list[str], where: str) -> None:
        """Raise UserError naming `where` for a prompt that this family cannot take; loads nothing."""
        if cls.sources is not None:
            cls.sources.check(prompts, where)

    def text_of(self, prompt: str) -> str:
        """The text of a prompt, which is what rewards see."""
        return words_of(prompt) if self.sources is not None else prompt

    def prompt_identity(self, prompt: str) -> str:
        """What distinguishes one prompt's conditioning from another's."""
        words, files = split_prompt(prompt)
        if self.sources and files:
            return f"{words}{SEPARATOR}{sources_key(files)} {self.shape}"
        return f"{prompt} {self.shape}" if self.by_size else prompt

    @classmethod
    def interface_name(cls, module: str) -> str | None:
        """The name of a layer's LoRA in user interfaces (ComfyUI, Forge), where it has one."""
        return None if cls.interface_prefix is None else f"{cls.interface_prefix}{module}"

    def frozen_modules(self) -> list[nn.Module]:
        """Everything that is never trained: the VAE and the text encoders."""
        return [m for name, m in self.pipeline.components.items()
                if isinstance(m, nn.Module) and name not in self.networks()]

    def prompt_encoders(self) -> dict[str, nn.Module]:
        """The networks that `encode_prompts` runs, by name."""
        return {name: module for name, module in self.pipeline.components.items() if isinstance(module, nn.Module)
                and name not in self.networks() and (name != "vae" or self.sources is not None)}

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Autocast to the compute type and the chosen attention kernel."""
        enabled = self.compute_dtype != torch.float32
        with torch.autocast(self.device.type, self.compute_dtype, enabled=enabled), kernel(self.attention):
            yield

    def predict(self, latents: Tensor, t: Tensor, conditioning: Conditioning,
                guidance: Guidance | None = None) -> Tensor:
        """The network's prediction at latents [B, C, H, W] and process times t [B], float32; guided in a pass or two.

        `passes` counts the samples passed through, with and without gradients.
        """
        if self.conventions.embedded:
            return self._pass(latents, t, conditioning, guidance.scale if guidance else None)
        unguided_family = self.conventions.guidance is None
        if unguided_family and guidance is not None and guidance.scale != 1:
            notice(f"model: {self.pipeline_class} is without guidance here, so guidance_scale {guidance.scale:g} is "
                   "not followed")
        if guidance is None or guidance.scale == 1 or guidance.negative is None or unguided_family:
            return self._pass(latents, t, conditioning)
        if guidance.apart or self.negative_branch is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not guidance.detach_negative), \
                    contextlib.nullcontext() if self.negative_branch is None else self.negative_branch.predicting():
                unguided = self._pass(latents, t, guidance.negative)
            wanted = self._pass(latents, t, conditioning)
        elif share_inputs(guidance.negative, conditioning):
            both = join([guidance.negative, conditioning])
            unguided, wanted = self._pass(torch.cat([latents, latents]), torch.cat([t, t]), both).chunk(2)
        else:
            unguided, wanted = (self._pass(latents, t, each) for each in (guidance.negative, conditioning))
        unguided = unguided.detach() if guidance.detach_negative else unguided
        return self.replay.combined(unguided, wanted, guidance.scale)

    def _pass(self, latents: Tensor, t: Tensor, conditioning: Conditioning, scale: float | None = None) -> Tensor:
        network = self.network_in_use() if self._in_reference else self.policy
        self.passes["with gradient" if torch.is_grad_enabled() else "without gradient"] += len(latents)
        if torch.is_grad_enabled():
            self._last_pass = self.shape.size, latents.detach(), t, conditioning
        with self.arithmetic():
            return self.replay.as_latents(self._called(network, latents, t, conditioning, scale))

    def _called(self, network: nn.Module, latents: Tensor, t: Tensor, conditioning: Conditioning,
                scale: float | None = None) -> Tensor:
        scales = torch.full((len(t),), self.default_guidance_scale if scale is None else scale, device=latents.device)
        def call(arguments: dict[str, Any], own: Conditioning):
            with self.for_user(own.get(USER)):
                return network(**arguments)

        return self.replay.predictions(call, latents, t, conditioning, scales,
                                       self._dtype_of(getattr(network, "module", network)))

    def _dtype_of(self, network: nn.Module) -> torch.dtype:
        """Of its weights; looked up once, since its own property walks through all of its modules."""
        key = id(network), next(network.parameters()).dtype
        if key not in self._dtypes:
            self._dtypes[key] = network.dtype
        return self._dtypes[key]

    def blocks(self) -> list[nn.Module]:
        """The network's blocks in the order in which latents pass through them."""
        return [block for name, blocks in self.network_in_use().named_children() if isinstance(blocks, nn.ModuleList)
                and name.endswith("blocks") for block in blocks]

    def _tokens_of(self, output) -> Tensor:
        """A block's output as tokens [B, N, width] of the latents."""
        return output[1 if self.text_first else 0] if isinstance(output, tuple) else output

    def features(self, latents: Tensor, t: Tensor, conditioning: Conditioning, blocks: tuple[int, ...]) -> list[Tensor]:
        """Tokens [B, N, width] after the blocks of these numbers, ascending; later blocks are not computed.

        Gradients flow to the latents and, where they are trained, to the weights. Within `reference` they are the
        frozen reference's.
        """
        if self.streams_blocks:
            raise UserError("model.offload blocks: a latent reward needs gradients through blocks that have left; use "
                            "model.offload=frozen")
        if not self.replay.in_one_pass(conditioning):
            parts = by_length(conditioning)
            found = [self.features(latents[places], t[places], batch, blocks) for places, batch in parts]
            order = torch.cat([places for places, _ in parts]).argsort()
            return [torch.cat(tokens)[order.to(latents.device)] for tokens in zip(*found, strict=True)]
        modules = self.blocks()

        def run() -> None:
            with self.arithmetic():
                self._called(self.network_in_use(), latents, t, conditioning)

        return [self._tokens_of(output).float() for output in outputs_of([modules[number] for number in blocks], run)]

    def schedule(self, steps: int) -> Tensor:
        """Process times of a sampling run, noisiest first, [steps + 1]."""
        return self.process.schedule(steps) if self.process.kind == "diffusion" else self.encoder.sigmas(steps)

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

    @memory_told("encoding images or videos")
    @torch.no_grad()
    def encode_media(self, pixels: Tensor) -> Tensor:
        """Latents of pixels [B, 3, (F,) H, W] in [-1, 1]: the posterior's mean, scaled as the network expects."""
        vae = self.conventions.vae
        latents = torch.cat([vae.encoded(self.pipeline.vae, part.to(self.device))
                             for part in pixels.split(self.coded_together())])
        if tuple(latents.shape[1:]) != self.conventions.shape:
            raise UserError(f"model: its VAE encodes {self.shape} to latents of {tuple(latents.shape[1:])}, and the "
                            f"pipeline samples {self.conventions.shape}")
        return latents

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Pixels [B, 3, (F,) H, W] in [-1, 1] up to the VAE's overshoot, float32, with gradients."""
        half = self.vae_precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if half else contextlib.nullcontext():
            return self.conventions.vae.decoded(self.pipeline.vae, latents, flat=self.modality == "image")

    @memory_told("decoding samples")
    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Media]:
        """Images from latents [B, C, h, w], videos from [B, C, f, h, w]; as many at a time as memory allows."""
        return [media for part in latents.split(self.coded_together())
                for media in self._to_media(self.decode_pixels(part).cpu())]

    def _to_media(self, pixels: Tensor) -> list[Media]:
        return self.pipeline.image_processor.postprocess(pixels, output_type="pil")

    def coded_together(self) -> int:
        """Samples that pass through the VAE together."""
        height, width = self.shape.size
        return max(1, min(self.vae_batch or VAE_PIXELS, VAE_PIXELS // (height * width * (self.shape.frames or 1))))

    @torch.no_grad()
    def sample(self, prompts: list[str], seeds: list[int], *, steps: int, guidance_scale: float, batch_size: int = 32,
               negative_prompt: str | None = None, on_step: OnStep | None = None) -> Iterator[list[Media]]:
        """Images or videos for prompts, one seed each, through the pipeline itself; yields one batch at a time.

        Whatever `on_step` raises ends the sampling and propagates.
        """
        batch_size = batch_size if self.sources is None else 1
        for start in range(0, len(prompts), batch_size):
            batch = prompts[start:start + batch_size]
            options = self.call.options(batch, seeds=seeds[start:start + batch_size], steps=steps,
                                        scale=guidance_scale, negative=negative_prompt)
            with memory_told("sampling"), self.arithmetic(), self._branches(batch, guidance_scale, on_step) as told, \
                    final_latents(self.pipeline, told) as last:
                self.call(**options)
            latents = self.conventions.from_rule(last.latents.float())
            if self.conventions.given is not None:
                latents = self.replay.finished(latents, self.encode_prompts(batch))
            yield self.decode(latents)

    @contextlib.contextmanager
    def _branches(self, batch: list[str], scale: float, on_step: OnStep | None) -> Iterator[OnStep | None]:
        """Within it the pipeline's two branches of guidance have their own adapters and users, where there are any;
        gives what is to be called in place of `on_step`."""
        place = self.conventions.wanted_place
        with contextlib.ExitStack() as stack:
            followed = []
            if self.negative_branch is not None:
                followed.append(stack.enter_context(self.negative_branch.sampling(len(batch), place)))
            if self.user_term is not None and self.user_of is not None:
                tokens = torch.stack([self.user_of(prompt) for prompt in batch]).to(self.device)
                guided = self.conventions.guidance is not None and scale > 1
                followed.append(stack.enter_context(self.user_term.sampling(self.networks().values(), tokens,
                                                                            place if guided else None)))

            def told(done: int, steps: int) -> None:
                for after_step in followed:
                    after_step()
                if on_step is not None:
                    on_step(done, steps)

            yield told if followed else on_step
