"""What of a generator is trained: an adapter or all weights, beside the frozen reference; adapters loaded to sample."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from visalign.config import LoraSettings
from visalign.errors import UserError
from visalign.generators.hardware.compiling import compile_blocks
from visalign.generators.hardware.kernels import recompute_blocks, recomputing
from visalign.generators.hardware.offloading import stream_blocks
from visalign.generators.lora.adapters import (
    HELD,
    START,
    TRAINED,
    activate,
    adapters_of,
    add_adapter,
    change_with,
    check_lora_names,
    found_targets,
    keep_adapters,
    layer_of,
    put_in_training_mode,
    remove_adapters,
    switch_adapters,
    switch_dropout,
    tuner_layers,
)
from visalign.generators.lora.layers import (
    Beneath,
    Layers,
    attach,
    changes_nothing,
    fuse,
    kind_on,
    one_kind,
    scale_adapters,
    taken,
)
from visalign.generators.lora.matching import fit_lora
from visalign.generators.lora.negative import NEGATIVE, NegativeBranch, check_beside, check_negative
from visalign.generators.observe.conventions import Conventions
from visalign.generators.users import (
    UserTerm,
    put_user_weights,
    read_user_adapter,
    user_width,
)


class Tunable:
    """The part of a generator that concerns its weights.

    policy: what is called while training, the denoiser or its wrapper. lora_targets: None for what `found_targets`
    finds.
    """

    denoiser_name: ClassVar[str]
    modality: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...] | None] = None
    trained_in_training_mode: ClassVar[tuple[str, ...]] = ()  # classes of layers that else give no gradient
    recomputes_wrongly: ClassVar[bool] = False  # whether diffusers' gradient checkpointing changes its output
    pipeline: Any
    conventions: Conventions
    denoiser: nn.Module
    policy: nn.Module
    compute_dtype: torch.dtype
    attention: str
    device: torch.device
    tuning: str | None = None
    offload: str = "none"
    streams_blocks = False  # its own network's; that of the reference is another
    negative_branch: NegativeBranch | None = None
    user_term: UserTerm | None = None
    user_of: Callable[[str], Tensor] | None = None  # who `sample` is for, by the prompt: tokens [N, width]
    _reference_adapters: tuple[str, ...] = (HELD, START)
    _tuned: Sequence[nn.Module] = ()  # the layers with adapters, once something beside or below them is trained
    _frozen_copy: nn.Module | None = None
    _last_pass: tuple | None = None  # size and arguments of the newest prediction with gradients
    _in_reference = False
    _dropout = False

    def networks(self) -> dict[str, nn.Module]:
        """The denoiser's networks by their names in the pipeline; more than one where experts share the noise range."""
        return {self.denoiser_name: self.denoiser}

    def network_in_use(self) -> nn.Module:
        """The network itself, without the wrapper of several processes; the frozen copy within `reference`."""
        return self._frozen_copy if self._in_reference and self._frozen_copy is not None else self.denoiser

    def whole_networks(self) -> list[nn.Module]:
        """What is called as one: the denoiser, and its frozen copy where there is one."""
        return [network for network in (self.denoiser, self._frozen_copy) if network is not None]

    def text_encoders(self) -> dict[str, nn.Module]:
        """By their names in the pipeline."""
        return {name: m for name, m in self.pipeline.components.items()
                if name.startswith("text_encoder") and isinstance(m, nn.Module)}

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """In this context `predict` is the frozen reference, without gradients: the model without what is trained.

        With `model.reference: base` it is without any LoRA.
        """
        layers = self._tuned
        switch_adapters(layers, self._reference_adapters)
        self._in_reference = True
        try:
            with torch.no_grad():
                yield
        finally:
            self._in_reference = False
            switch_adapters(layers, (HELD, TRAINED))

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

    def make_trainable(self, tuning: str, *, reference: str = "start", gradient_checkpointing: bool = False,
                       compiled: bool = False, user_features: str | None = None, **lora: Any) -> list[Tensor]:
        """Add an adapter, of a LoRA or of users, or unfreeze all weights and keep a frozen copy; returns the trainable
        parameters.

        lora: settings of LoraSettings; an adapter that was put on to start from decides them. reference, user_features:
        see ModelSettings. Raises UserError when no module matches `targets`, or none can be told of a user.
        """
        self.tuning = tuning
        self._reference_adapters = (HELD, START) if reference == "start" else ()
        if tuning == "lora":
            self._add_trained(LoraSettings(**lora))
            self._tuned = [layer for _, layer in tuner_layers(self.denoiser)]
        elif tuning == "user":
            self._add_users(user_width(user_features, self.modality))
        else:
            self._unfreeze(reference)
        put_in_training_mode(self.denoiser, self.trained_in_training_mode)
        for network in (self.denoiser, self._frozen_copy) if compiled else ():
            if network is not None:
                compile_blocks(network)
        again = contextlib.nullcontext if self.user_term is None else self.user_term.again
        if gradient_checkpointing and self.recomputes_wrongly:
            recompute_blocks(self.blocks(), self.attention, again)
        elif gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing(recomputing(self.attention, again))
        return [p for _, p in self.trainable_parameters()]

    def _add_trained(self, lora: LoraSettings) -> None:
        start = {part: taken(network, START) for part, network in self.networks().items()}
        if not any(start.values()):
            check_lora_names(self.denoiser, lora, self.lora_targets)
            add_adapter(self.denoiser, lora, lora.targets or self.lora_targets or found_targets(self.denoiser))
            return
        for part, layers in start.items():
            if layers:
                attach(self.networks()[part], layers, TRAINED, lora.dropout)
        activate(self.denoiser, (HELD, TRAINED))

    def _add_users(self, width: int) -> None:
        """What an adapter of users has beside the network."""
        self._refuse_where_streamed("model.tuning user")
        self.user_term = UserTerm(self.denoiser, width, type(self.pipeline).__name__)

    def for_user(self, tokens: Tensor | None) -> contextlib.AbstractContextManager[None]:
        """Within it passes are for the users of these tokens [B, N, width]; the reference knows none."""
        if self.user_term is None:
            return contextlib.nullcontext()
        return self.user_term.told(None if self._in_reference else tokens)

    def _unfreeze(self, reference: str) -> None:
        """LoRAs below become part of the weights, in single precision; the reference is a copy with or without them."""
        below = [network for network in self.networks().values() if adapters_of(network)]
        base = None if below and reference == "start" else copy.deepcopy(self.denoiser)
        self.denoiser.to(torch.float32)
        for network in below:
            fuse(network)
        frozen = copy.deepcopy(self.denoiser) if base is None else base
        for module in list(frozen.modules()):
            remove_adapters(module)
        self._frozen_copy = frozen.to(self.compute_dtype).requires_grad_(False).eval()
        if self.offload == "blocks":
            stream_blocks(self._frozen_copy, self.device)
        self.denoiser.requires_grad_(True)

    def trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self.denoiser.named_parameters() if p.requires_grad]

    def ignores(self, names: list[str]) -> bool:
        """Whether the newest prediction with gradients is the same whatever the layers of these parameters give out.

        The last block's stream of text in some networks: nothing reads it.
        """
        layers = [layer_of(self.denoiser, name) for name in names]
        size, *arguments = self._last_pass
        with torch.no_grad(), self.measuring(), self.working_at(size), torch.random.fork_rng():
            return change_with(layers, lambda: self.predict(*arguments)) == 0

    @classmethod
    def adapted_parts(cls, pipeline_class: type) -> tuple[str, ...]:
        """Names of the pipeline's parts that a LoRA may be for."""
        return tuple(getattr(pipeline_class, "_lora_loadable_modules", None) or (cls.denoiser_name,))

    def put_on(self, below: Beneath, tuning: str = "lora") -> None:
        """Put on the LoRAs that the model has before it is trained. Where all weights are trained, the text encoders
        take theirs in at once, as `make_trainable` does for the denoiser."""
        if below.held or below.start:
            self._refuse_where_streamed("model.loras, model.lora.start")
        parts = self._adapted()
        for name, found in ((HELD, below.held), (START, below.start)):
            for part, layers in found.items():
                attach(parts[part], layers, name)
        for part in below.held.keys() - self.networks():
            if tuning == "full":
                fuse(parts[part])

    def _refuse_where_streamed(self, where: str) -> None:
        if self.streams_blocks:
            raise UserError(f"{where}: blocks of model.offload blocks are copied as they were loaded, without an "
                            "adapter; use model.offload=frozen")

    def _adapted(self) -> dict[str, nn.Module]:
        """The networks that a LoRA may be for, by their names in the pipeline."""
        return self.networks() | {name: module for name, module in self.text_encoders().items()
                                  if name in self.adapted_parts(type(self.pipeline))}

    def fit_adapter(self, path: Path) -> dict[str, Layers]:
        """A LoRA's matrices by network and layer. Raises UserError unless every tensor of it fits this model."""
        return fit_lora(path, self._adapted(), type(self.pipeline), self.denoiser_name, self.interface_name)

    def load_adapter(self, path: Path) -> None:
        """Load a LoRA's folder or file for sampling.

        Raises UserError, leaving the model unchanged, unless every tensor of it fits this model.
        """
        self._refuse_where_streamed(f"lora {path}")
        found, parts = self.fit_adapter(path), self._adapted()
        kind = one_kind((each for layers in found.values() for each in layers.values()), f"lora {path}")
        if kind != "lora" and any(adapters_of(parts[name]) for name in found):
            raise UserError(f"lora {path}: is a {kind}, which cannot be added to the LoRAs that the model has already")
        for name, layers in found.items():
            attach(parts[name], layers, f"lora_{len(adapters_of(parts[name]))}")
        if changes_nothing(found):
            tqdm.write(f"lora {path}: all its products are 0, so it changes nothing")

    def load_user_adapter(self, path: Path) -> None:
        """Load what a run with model.tuning user exported, for sampling; `user_of` says for whom.

        Raises UserError, leaving the model unchanged, unless it fits.
        """
        if self.user_term is not None:
            raise UserError(f"user adapter {path}: the model has one already")
        term = UserTerm(self.denoiser, read_user_adapter(path).width, type(self.pipeline).__name__)
        try:
            put_user_weights(term, path)
        except UserError:
            term.remove()
            raise
        for weight in term.weights().values():
            weight.requires_grad_(False)
        self.user_term = term

    def load_negative_adapter(self, path: Path, less: float = 0.0) -> None:
        """Let guidance lead away from what a LoRA's folder or file predicts; after all others are loaded.

        less: m of `NegativeBranch`. Raises UserError, leaving the model unchanged, for one that does not fit, and for a
        model without an unconditional branch.
        """
        where = f"negative adapter {path}"
        self._refuse_where_streamed(where)
        if self.conventions.embedded or self.conventions.guidance is None:
            why = "takes the guidance scale as an input of its network" if self.conventions.embedded else \
                "is without guidance here"
            raise UserError(f"{where}: {type(self.pipeline).__name__} {why}, so it has no unconditional branch")
        found = self.fit_adapter(path)
        check_negative(found, where)
        self.unload_negative_adapter()
        for network in self.networks().values():
            for positive in adapters_of(network):
                check_beside(kind_on(network, positive), less, where)
        for name, layers in found.items():
            attach(self.networks()[name], layers, NEGATIVE)
        self.negative_branch = NegativeBranch(self.networks().values(), less)
        if changes_nothing(found) and not less:
            tqdm.write(f"{where}: all its products are 0, so this is plain guidance")

    def unload_negative_adapter(self) -> None:
        """Guide as without it."""
        if self.negative_branch is not None:
            self.negative_branch.remove()
            self.negative_branch = None
        for network in self.networks().values():
            if NEGATIVE in adapters_of(network):
                keep_adapters(network, [name for name in adapters_of(network) if name != NEGATIVE])

    def unload_adapter(self) -> None:
        """Remove what was loaded to sample: LoRAs, the negative one, and a user adapter."""
        self.unload_negative_adapter()
        if self.user_term is not None:
            self.user_term.remove()
            self.user_term = self.user_of = None
        for network in self._adapted().values():
            keep_adapters(network, (HELD, START))

    def set_adapter_strength(self, strength: float) -> None:
        """Scale every adapter that was loaded or trained, a negative one too: 1 is as trained, 0 the model without it.
        """
        if self.user_term is not None:
            self.user_term.strength = strength
        idle = START if self.tuning == "lora" else TRAINED
        with self.negative_branch.aside() if self.negative_branch else contextlib.nullcontext():
            for network in self._adapted().values():
                scale_adapters(network, strength)
                activate(network, [name for name in adapters_of(network)
                                   if name != idle and (strength or name in (HELD, START))])
