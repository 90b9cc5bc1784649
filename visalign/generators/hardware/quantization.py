"""Frozen weights held in 8 or 4 bits, layer by layer, below an adapter that learns in full precision.

Weights alone are rounded, once, when a model is loaded; they are multiplied in the compute type. Rounding activations
as well would stop gradients. A part is quantised on the device it goes to, so its whole never lies there unrounded.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visalign.config import ModelSettings
from visalign.errors import UserError, check_package, nearest
from visalign.storage.weights import check_finite


@dataclass(frozen=True)
class Quantizer:
    """bytes_per_weight: of a quantised layer, scales included. package: what pip installs it as.

    held_backward: whether a backward pass holds the weights that were computed from the rounded ones, which
    gradient checkpointing limits to one block.
    """

    package: str
    bytes_per_weight: float
    held_backward: bool
    apply: Callable[[nn.Module, str, torch.dtype], None]


def quantizable(network: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantised: the linear ones inside repeated blocks; also of a network on the meta device.

    Embeddings, convolutions, and what leads into and out of the blocks stay, and so does what the library keeps in
    single precision.
    """
    blocks = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, nn.ModuleList))
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)
            and name.startswith(blocks) and not kept & set(name.split("."))}


def quantized_bytes(network: nn.Module, quantization: str, bytes_each: float) -> float:
    """What a network's weights take: its quantised layers, and the others at `bytes_each`; nothing is computed."""
    total = sum(parameter.numel() for parameter in network.parameters())
    if quantization == "none":
        return total * bytes_each
    rounded = sum(layer.weight.numel() for layer in quantizable(network).values())
    return rounded * QUANTIZERS[quantization].bytes_per_weight + (total - rounded) * bytes_each


def check_quantizer(quantization: str) -> None:
    """Raise UserError when the package that quantises so is not installed."""
    if quantization != "none":
        package = QUANTIZERS[quantization].package
        check_package(f"model.quantization {quantization}", package, package)


def quantize(network: nn.Module, quantization: str, device: torch.device, dtype: torch.dtype, where: str) -> None:
    """Round the layers of a network in place, moving each to the device. dtype: in which their products are computed.

    Raises UserError starting with `where` for weights that are not finite, or a network without layers to quantise.
    """
    layers = quantizable(network)
    if not layers:
        raise UserError(f"{where}: has no linear layers inside repeated blocks, so model.quantization {quantization} "
                        "saves nothing; leave it out")
    for name, layer in layers.items():
        check_finite(layer.state_dict().items(), f"{where}, {name}")
        QUANTIZERS[quantization].apply(network, name, dtype)
        network.get_submodule(name).to(device)
    network.requires_grad_(False)


def quantize_parts(generator, settings: ModelSettings, denoiser: bool = True) -> None:
    """The denoiser's networks and `model.quantized_parts`, as they move to the generator's device. Raises UserError.

    denoiser: whether its weights are there.
    """
    networks = generator.networks()
    others = {name: part for name, part in generator.pipeline.components.items()
              if isinstance(part, nn.Module) and name not in networks}
    for name in settings.quantized_parts:
        if name not in others:
            raise UserError(f"model.quantized_parts: {settings.source} has no part {name}{nearest(name, others)}")
    rounded = {name: others[name] for name in settings.quantized_parts} | (networks if denoiser else {})
    for name, part in rounded.items():
        quantize(part, settings.quantization, generator.device, generator.compute_dtype,
                 f"model {settings.source}, its {name}")


def is_quantized(network: nn.Module) -> bool:
    """Whether any weight is held rounded; then nothing may be added to it, or cast."""
    return any(len(plain_tensors(parameter)) > 1 for parameter in network.parameters())


def plain_tensors(tensor: Tensor) -> list[Tensor]:
    """The plain tensors that a weight consists of: rounded numbers and their scales."""
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        scales = [state.absmax, state.offset.reshape(1), state.state2.absmax] if state.nested else [state.absmax]
        return [tensor.detach().as_subclass(Tensor), *scales]
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        return [part for name in names for part in plain_tensors(getattr(tensor, name))]
    return [tensor]


def _by_torchao(config: str) -> Callable[[nn.Module, str, torch.dtype], None]:
    def apply(network: nn.Module, name: str, dtype: torch.dtype) -> None:
        library = importlib.import_module("torchao.quantization")
        layer = network.get_submodule(name)
        layer.requires_grad_(False)
        library.quantize_(layer, getattr(library, config)(), filter_fn=lambda module, _: module is layer)

    return apply


def _to_nf4(network: nn.Module, name: str, dtype: torch.dtype) -> None:
    import bitsandbytes

    layer = network.get_submodule(name)
    rounded = bitsandbytes.nn.Linear4bit(layer.in_features, layer.out_features, bias=layer.bias is not None,
                                         compute_dtype=dtype, quant_type="nf4", device="meta")
    rounded.weight = bitsandbytes.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
    rounded.bias = layer.bias  # the weight is rounded when it is moved
    network.set_submodule(name, rounded)
    network.is_loaded_in_4bit = True  # which tells peft what adapter such a layer takes


QUANTIZERS = {
    "int8": Quantizer("torchao", 1.01, True, _by_torchao("Int8WeightOnlyConfig")),
    "fp8": Quantizer("torchao", 1.01, True, _by_torchao("Float8WeightOnlyConfig")),
    "nf4": Quantizer("bitsandbytes", 0.52, False, _to_nf4),
}
"""By `model.quantization`."""
