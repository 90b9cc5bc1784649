"""What of a generator is trained: an adapter or all weights, beside the frozen reference; adapters loaded to sample."""

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from visalign.errors import UserError
from visalign.generators.adapters import (
    add_lora,
    change_with,
    check_targets,
    found_targets,
    layer_of,
    put_in_training_mode,
    remove_adapters,
    scale_lora,
    switch_adapters,
    switch_dropout,
)
from visalign.generators.compiling import compile_blocks
from visalign.generators.kernels import recompute_blocks, recomputing
from visalign.generators.lora_files import attach, changes_nothing, fit_lora
from visalign.generators.offloading import stream_blocks


class Tunable:
    """The part of a generator that concerns its weights.

    policy: what is called while training, the denoiser or its wrapper. lora_targets: None for what `found_targets`
    finds.
    """

    denoiser_name: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...] | None] = None
    trained_in_training_mode: ClassVar[tuple[str, ...]] = ()  # classes of layers that else give no gradient
    recomputes_wrongly: ClassVar[bool] = False  # whether diffusers' gradient checkpointing changes its output
    pipeline: Any
    denoiser: nn.Module
    policy: nn.Module
    compute_dtype: torch.dtype
    attention: str
    device: torch.device
    tuning: str | None = None
    offload: str = "none"
    streams_blocks = False  # its own network's; that of the reference is another
    _frozen_copy: nn.Module | None = None
    _last_pass: tuple | None = None  # arguments of the newest prediction with gradients
    _in_reference = False
    _dropout = False

    def networks(self) -> dict[str, nn.Module]:
        """The denoiser's networks by their names in the pipeline; more than one where experts share the noise range."""
        return {self.denoiser_name: self.denoiser}

    def text_encoders(self) -> dict[str, nn.Module]:
        """By their names in the pipeline."""
        return {name: m for name, m in self.pipeline.components.items()
                if name.startswith("text_encoder") and isinstance(m, nn.Module)}

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """In this context `predict` is the frozen reference (adapter off, or the frozen copy), without gradients."""
        if self.tuning == "lora":
            switch_adapters(self.denoiser, False)
        self._in_reference = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._in_reference = False
            if self.tuning == "lora":
                switch_adapters(self.denoiser, True)

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """In this context: no dropout, the unwrapped network, so that one process may measure while others wait."""
        dropout = self._dropout
        self.set_dropout(False)
        try:
            with self.unwrapped():
                yield
        finally:
            self.set_dropout(dropout)

    @contextlib.contextmanager
    def unwrapped(self) -> Iterator[None]:
        """In this context the policy is the network itself, without the wrapper of several processes."""
        policy, self.policy = self.policy, self.denoiser
        try:
            yield
        finally:
            self.policy = policy

    def set_dropout(self, on: bool) -> None:
        """With dropout, as offline training wants it, or without; the network stays in the mode it is sampled in."""
        self._dropout = on
        switch_dropout(self.denoiser, on)

    def make_trainable(self, tuning: str, *, rank: int = 16, alpha: float = 16.0, dropout: float = 0.0,
                       targets: tuple[str, ...] | None = None, gradient_checkpointing: bool = False,
                       compiled: bool = False) -> list[Tensor]:
        """Add a LoRA adapter, or unfreeze all weights and keep a frozen copy; returns the trainable parameters.

        Raises UserError when no module matches `targets`.
        """
        self.tuning = tuning
        if tuning == "lora":
            if targets is not None:
                check_targets(self.denoiser, targets)
            add_lora(self.denoiser, rank, alpha, dropout, targets or self.lora_targets or found_targets(self.denoiser))
        else:
            self._frozen_copy = copy.deepcopy(self.denoiser).to(self.compute_dtype).requires_grad_(False).eval()
            self.denoiser.to(torch.float32).requires_grad_(True)
            if self.offload == "blocks":
                stream_blocks(self._frozen_copy, self.device)
        put_in_training_mode(self.denoiser, self.trained_in_training_mode)
        for network in (self.denoiser, self._frozen_copy) if compiled else ():
            if network is not None:
                compile_blocks(network)
        if gradient_checkpointing and self.recomputes_wrongly:
            recompute_blocks(self.blocks(), self.attention)
        elif gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing(recomputing(self.attention))
        return [p for _, p in self.trainable_parameters()]

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.denoiser.named_parameters() if p.requires_grad]

    def ignores(self, names: list[str]) -> bool:
        """Whether the newest prediction with gradients is the same whatever the layers of these parameters give out.

        The last block's stream of text in some networks: nothing reads it.
        """
        layers = [layer_of(self.denoiser, name) for name in names]
        with torch.no_grad(), self.measuring(), torch.random.fork_rng():
            return change_with(layers, lambda: self.predict(*self._last_pass)) == 0

    @classmethod
    def adapted_parts(cls, pipeline_class: type) -> tuple[str, ...]:
        """Names of the pipeline's parts that a LoRA may be for."""
        return tuple(getattr(pipeline_class, "_lora_loadable_modules", None) or (cls.denoiser_name,))

    def load_adapter(self, path: Path) -> None:
        """Load a LoRA's folder or file for sampling.

        Raises UserError, leaving the model unchanged, unless every tensor of it fits this model.
        """
        if self.streams_blocks:
            raise UserError(f"lora {path}: blocks of model.offload blocks are copied as they were loaded, without an "
                            "adapter; use model.offload=frozen")
        parts = self.networks() | {name: module for name, module in self.pipeline.components.items()
                                   if name in self.adapted_parts(type(self.pipeline)) and
                                   name.startswith("text_encoder")}
        found = fit_lora(path, parts, type(self.pipeline), self.denoiser_name)
        for name, pairs in found.items():
            attach(parts[name], pairs)
        if changes_nothing(found):
            tqdm.write(f"lora {path}: all its products are 0, so it changes nothing")

    def unload_adapter(self) -> None:
        """Remove what `load_adapter` loaded."""
        if hasattr(self.pipeline, "unload_lora_weights"):
            self.pipeline.unload_lora_weights()
        else:
            remove_adapters(self.denoiser)

    def set_adapter_strength(self, strength: float) -> None:
        """Scale every adapter: 1 is as trained, 0 the model without it."""
        for module in (self.denoiser, *self.text_encoders().values()):
            scale_lora(module, strength)
