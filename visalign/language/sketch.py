"""A language model without weights: its sizes, where its adapter lies, and what a pass of it keeps, from its
configuration alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from visalign.config.language import LanguageModelSettings
from visalign.errors import UserError
from visalign.generators.hardware.activations import (
    Activations,
    FusedAttention,
    SavedTensors,
    blocks_counted,
    hold_without_memory,
)
from visalign.generators.hardware.devices import arithmetic_of
from visalign.generators.hardware.known_values import knowing, known_values
from visalign.language.convert import peft_config
from visalign.storage.language_models import LanguageSource
from visalign.storage.weights import quiet_reports


@dataclass(frozen=True)
class LanguageSketch:
    """A model on torch's device `meta`, with the adapter that a recipe gives it.

    base: numbers in the model. trained: numbers that learn. adapted: by part of the model, layers that the adapter
    changes.
    """

    model: nn.Module
    base: int
    trained: int
    adapted: dict[str, int]

    @property
    def text(self) -> Any:
        """The configuration of what reads and writes words."""
        return self.model.config.get_text_config()


def sketch_language(found: LanguageSource, settings: LanguageModelSettings,
                    where: str = "model.source") -> LanguageSketch:
    """Raises UserError for a configuration that is no language model's, and for layers that it does not have."""
    model = model_on_meta(found, settings.vision, where)
    base = numbers_in(model)
    if settings.tuning == "full":
        return LanguageSketch(model, base, base, {})
    from peft import get_peft_model

    try:
        with torch.device("meta"):
            adapted = get_peft_model(model, peft_config(settings.lora))
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"model.lora.targets: no adapter fits {found.described} ({reason})") from None
    layers = Counter(_part(name.removeprefix("base_model.model.")) for name, layer in adapted.named_modules()
                     if hasattr(layer, "lora_A"))
    return LanguageSketch(adapted, base, sum(p.numel() for p in adapted.parameters() if p.requires_grad), dict(layers))


def model_on_meta(found: LanguageSource, vision: bool, where: str) -> nn.Module:
    """The model of a configuration. Raises UserError for one that transformers knows no such model of."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if vision else AutoModelForCausalLM
    options = {"gguf_file": found.gguf} if found.gguf else {}
    try:
        with quiet_reports(), torch.device("meta"):
            return kind.from_config(AutoConfig.from_pretrained(found.source, **options))
    except Exception as error:  # of many kinds: an architecture that is unknown, numbers that do not go together
        reason = " ".join(str(error).split())[:160]
        what = "vision-language model" if vision else "language model"
        raise UserError(f"{where} {found.source}: its configuration gives no {what} ({reason})") from error


def numbers_in(model: nn.Module) -> int:
    """Parameters, each once."""
    return sum(p.numel() for p in model.parameters())


def _part(name: str) -> str:
    """What a layer belongs to: `language_model` of `model.language_model.layers.0.mlp.up_proj`."""
    words = name.removeprefix("model.").split(".")
    return "language_model" if words[0] in ("layers", "h", "decoder", "transformer") else words[0]


def pass_activations(sketch: LanguageSketch, batch: Mapping[str, Tensor], device: torch.device, arithmetic: torch.dtype,
                     held: torch.dtype) -> Activations:
    """What the backward of one pass of the layers needs, without the vocabulary's logits. device: need not be here.

    The sketch's model holds tensors of that device afterwards. Raises UserError where the pass cannot be followed
    without weights.
    """
    mode, network = FakeTensorMode(allow_non_fake_inputs=True), sketch.model.train()
    hold_without_memory(network, mode, held, device)
    whole = network.get_base_model() if hasattr(network, "get_base_model") else network
    counter = SavedTensors(network)
    given = {name: knowing(mode, value, device, held if value.is_floating_point() else value.dtype)
             for name, value in batch.items()}
    try:
        with arithmetic_of(device, arithmetic), blocks_counted(_blocks(network), counter), mode, \
                known_values(mode), FusedAttention(), counter.counting(counter.outside):
            whole.base_model(**given, use_cache=False)
    except Exception as error:  # what third-party code raises on tensors without values
        raise UserError(f"a pass of {type(whole).__name__} cannot be followed without weights "
                        f"({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error
    return counter.found()


def _blocks(network: nn.Module) -> list[nn.Module]:
    """What gradient checkpointing computes again: the layers of all towers."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)]
