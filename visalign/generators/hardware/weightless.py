"""A generator without weights: its network is called as its pipeline calls it, on tensors that have no memory.

Text encoders and the VAE answer with zeros of the right shapes, so that the pipeline's own call gives the network's
arguments at the working shape. Nothing is downloaded but configurations and tokenizers.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from visalign.config import ModelSettings
from visalign.errors import UserError
from visalign.generators.base import Generator
from visalign.generators.files.locating import locate_model
from visalign.generators.files.sketching import empty_generator
from visalign.generators.hardware.activations import (
    Activations,
    FusedAttention,
    LiveTensors,
    SavedTensors,
    blocks_counted,
    each_kind_once,
    hold_without_memory,
)
from visalign.generators.hardware.devices import arithmetic_of, held_dtype, pick_dtype
from visalign.generators.hardware.kernels import kernel
from visalign.generators.hardware.known_values import knowing, known_values, values_of
from visalign.generators.observe.calling import LONGER
from visalign.generators.observe.running import ShortCalls
from visalign.generators.observe.watching import EnoughSeen, NetworkCall

PROMPT = " ".join(["a red fruit beside a green leaf on a wooden table"] * 6)
"""Of 60 words: what networks that take prompts of any length are given."""

USER_TOKENS = 4
"""Of a user, by data.users.context; beside a prompt's they are few."""


class Weightless:
    """One model with its adapter, as a recipe would hold it on `device`, which need not be there."""

    def __init__(self, settings: ModelSettings, device: torch.device):
        self.checkpoint = locate_model(settings)
        self.settings, self.device = settings, device
        self.generator: Generator = empty_generator(self.checkpoint, settings, words=True)
        self.compute_dtype, self.held = pick_dtype(settings.precision, device), held_dtype(settings, device)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._calls: dict[int, NetworkCall] = {}
        pipeline = self.generator.pipeline
        pipeline.__class__ = _called_on_cpu(type(pipeline))
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                self._hold(part, torch.float32 if name == "vae" else self.held)

    def _hold(self, part: nn.Module, dtype: torch.dtype, device: str = "cpu") -> None:
        """Give a part tensors without memory: what is trained and what its class keeps in float32, and the rest."""
        always = hasattr(part, "load_config") or dtype == torch.float16  # transformers keeps them so in fp16 alone
        kept = tuple(always and getattr(part, "_keep_in_fp32_modules", None) or ())
        hold_without_memory(part, self.mode, dtype, torch.device(device),
                            lambda name: any(each in name.split(".") for each in kept))

    def call(self, rows: int) -> NetworkCall:
        """The network's arguments for so many samples of a pipeline's first step, without guidance, in real tensors.

        Raises UserError where the pipeline cannot be called without weights.
        """
        if rows not in self._calls:
            with self._told("a call"):
                self._calls[rows] = self._called(rows)
        return self._calls[rows]

    @property
    def takes_scale(self) -> bool:
        """Whether guidance is an input of the network, so that it costs no second pass."""
        return self.call(1).arguments.get("guidance") is not None

    def _called(self, rows: int) -> NetworkCall:
        generator, seen = self.generator, []

        def answer(call: NetworkCall) -> None:
            seen.append(call)
            raise EnoughSeen

        calls = ShortCalls(generator.pipeline, generator.networks(), generator.call, {})
        names = generator.call.guidance_names()
        prompt = PROMPT if generator.sources is None else LONGER  # with a grey image
        with self._answering(), _quiet():
            for value in (1.0, 0.0):
                calls.run([prompt] * rows, dict.fromkeys(names, value), answer=answer)
                if seen and seen[-1].rows() == rows:
                    return seen[-1]
        raise UserError("its network could not be called without guidance")

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Within it text encoders and the VAE's encoder give zeros."""
        generator = self.generator
        parts = [(part, "encode" if part is generator.pipeline.vae else "forward")
                 for part in generator.prompt_encoders().values()]
        for part, name in parts:
            setattr(part, name, self._zeros_of(part, getattr(part, name)))
        try:
            yield
        finally:
            for part, name in parts:
                part.__dict__.pop(name, None)

    def _zeros_of(self, part: nn.Module, own):
        @functools.wraps(own)  # some libraries look at the signature
        def answer(*arguments, **named):
            with torch.no_grad(), self.mode, known_values(self.mode), FusedAttention(), each_kind_once(part):
                output = own(*arguments, **named)
            return _real(output)

        return answer

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Within it passes are on tensors without memory, in the arithmetic of the device, even where there is none."""
        attention = kernel("math") if self.settings.attention == "math" else FusedAttention()
        with arithmetic_of(self.device, self.compute_dtype), self.mode, known_values(self.mode), attention:
            yield

    def _for_users(self, call: NetworkCall) -> contextlib.AbstractContextManager[None]:
        """Within it passes are for users, where the network is told of any."""
        term = self.generator.user_term
        if term is None:
            return contextlib.nullcontext()
        tokens = torch.empty(call.rows(), USER_TOKENS, term.width, device="meta")
        return term.told(FakeTensor(self.mode, tokens, self.device))

    def _on_device(self, call: NetworkCall) -> tuple[nn.Module, dict[str, Any]]:
        """The network that is called and its arguments, on the device."""
        network = self.generator.networks()[call.network]
        dtype = next(p.dtype for p in network.parameters() if not p.requires_grad or self.settings.tuning == "full")

        def fake(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            kind = dtype if leaf.dtype in (torch.float16, torch.bfloat16, torch.float32) else leaf.dtype
            return knowing(self.mode, leaf, self.device, kind)

        if next(network.parameters()).device.type != self.device.type:
            self._hold(network, self.held, str(self.device))
        return network, pytree.tree_map(fake, call.arguments)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turns what third-party code raises on tensors without values into one sentence."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{what} of {self.generator.pipeline_class} cannot be followed without weights "
                            f"({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error

    def activations(self, call: NetworkCall) -> Activations:
        """What the backward of one pass needs. Raises UserError where the network looks at values."""
        network, arguments = self._on_device(call)
        counter = SavedTensors(network)
        with self._told("a pass"), self._checkpointed(network, counter), self._computing(), self._for_users(call), \
                counter.counting(counter.outside):
            network(**arguments)
        return counter.found()

    @contextlib.contextmanager
    def _checkpointed(self, network: nn.Module, counter: SavedTensors) -> Iterator[None]:
        """Within it the network's blocks are run by the counter."""
        if not self.generator.recomputes_wrongly and getattr(network, "_supports_gradient_checkpointing", False):
            network.enable_gradient_checkpointing(counter.block)
            yield
            network.disable_gradient_checkpointing()
            return
        with blocks_counted(self.generator.blocks(), counter):
            yield

    def sampling(self, call: NetworkCall) -> int:
        """The most bytes of one pass without gradients."""
        network, arguments = self._on_device(call)
        live = LiveTensors(network)
        with self._told("a pass"), torch.no_grad(), self._computing(), self._for_users(call), live, \
                each_kind_once(network, live):
            network(**arguments)
        return live.peak


    def coding(self, tiled: bool) -> tuple[int, int]:
        """The most bytes of encoding one sample's pixels, and of decoding its latents."""
        vae, shape = self.generator.pipeline.vae, self.generator.shape
        if tiled or self.generator.needs_tiling:
            vae.enable_tiling()
        self._hold(vae, torch.float32, str(self.device))
        of_videos = any("Conv3d" in type(layer).__name__ for layer in vae.modules())  # some are Conv2d in truth
        frames = shape.frames or 1
        size = (1, 3, frames, *shape.size) if of_videos else (frames, 3, *shape.size)
        channels = 4 if vae.config.get("in_channels") == 4 else 3  # of images with transparency

        def peak(run):
            with self._told("the VAE"), torch.no_grad(), self.mode, FusedAttention(), LiveTensors(vae) as live:
                return run(), live.peak

        pixels = FakeTensor(self.mode, torch.empty((size[0], channels, *size[2:]), device="meta"), self.device)
        output, encoding = peak(lambda: vae.encode(pixels))
        latents = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latent
        _, decoding = peak(lambda: vae.decode(latents))
        if tiled and not self.generator.needs_tiling:
            vae.disable_tiling()
        return encoding, decoding


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it tokenizers and pipelines do not speak of the prompt, which is nobody's."""
    import diffusers
    import transformers

    both = diffusers.utils.logging, transformers.utils.logging
    before = [each.get_verbosity() for each in both]
    for each in both:
        each.set_verbosity_error()
    try:
        yield
    finally:
        for each, level in zip(both, before, strict=True):
            each.set_verbosity(level)


def _called_on_cpu(kind: type) -> type:
    """The pipeline's class, of which calls are on the CPU wherever its weights seem to be."""
    here = property(lambda self: torch.device("cpu"))
    return type(kind.__name__, (kind,), {"device": here, "_execution_device": here, "__module__": kind.__module__})


def _real(value: Any) -> Any:
    """Zeros for tensors without memory, in containers and in what holds tensors as attributes."""
    if isinstance(value, FakeTensor):
        known = values_of(value)
        return torch.zeros(value.shape, dtype=value.dtype) if known is None else known
    leaves, tree = pytree.tree_flatten(value)
    if len(leaves) != 1 or leaves[0] is not value:
        return pytree.tree_unflatten([_real(leaf) for leaf in leaves], tree)
    if isinstance(value, dict):
        for name, each in list(value.items()):
            value[name] = _real(each)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        for name, each in vars(value).items():
            if isinstance(each, FakeTensor):
                setattr(value, name, _real(each))
    return value
