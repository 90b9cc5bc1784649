"""Additions to a network: LoRA adapters, and hooks that read or change the outputs of its parts."""

import re
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from visalign.errors import UserError, nearest


class _Enough(Exception):
    """All requested outputs have been collected."""


def outputs_of(modules: list[nn.Module], run: Callable[[], None]) -> list:
    """The outputs of `modules` while `run` calls their network, which stops once the last of them is computed."""
    taken: dict[int, object] = {}

    def keep(place: int):
        def hook(module, arguments, output):
            taken[place] = output
            if place == len(modules) - 1:
                raise _Enough
        return hook

    handles = [module.register_forward_hook(keep(place)) for place, module in enumerate(modules)]
    try:
        run()
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return [taken[place] for place in range(len(modules))]


def check_targets(denoiser: nn.Module, targets: tuple[str, ...]) -> None:
    """Raise UserError unless every name is that of a layer that takes a LoRA, or the end of such names after a dot."""
    layers = {name: isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Embedding)
              for name, module in denoiser.named_modules() if name}
    ends = sorted({name.rpartition(".")[2] for name, fits in layers.items() if fits and not name[-1].isdigit()})
    if not targets:
        raise UserError("model.lora.targets: names no layer; leave it out for the family's own")
    for target in targets:
        found = [fits for name, fits in layers.items() if name == target or name.endswith(f".{target}")]
        if not all(found):
            raise UserError(f"model.lora.targets {target}: is not a layer that takes a LoRA, but a norm or a part made "
                            f"of several layers{nearest(target, ends)}")
        if not found:
            raise UserError(f"model.lora.targets {target}: no layer of this model has that name{nearest(target, ends)}")


def found_targets(denoiser: nn.Module) -> tuple[str, ...]:
    """The attention and feed-forward layers inside the network's repeated blocks, by their full names.

    Layers that turn time or text into scales and shifts are left out.
    """
    blocks = [f"{name}.{number}." for name, module in denoiser.named_modules() if isinstance(module, nn.ModuleList)
              for number in range(len(module))]
    found = [name for name, module in denoiser.named_modules()
             if isinstance(module, nn.Linear) and any(name.startswith(block) for block in blocks)
             and _LEARNT.search(name) and not _MODULATION.search(name)]
    if not found:
        raise UserError("model.lora.targets: this model has no attention or feed-forward layers inside repeated "
                        "blocks; name the layers to adapt")
    return tuple(found)


_LEARNT = re.compile(r"(^|\.)(\w*attn\w*|\w*attention\w*|ff\w*|\w*feed_forward\w*|\w*mlp\w*)\.|\.proj_mlp$|\.to_")
_MODULATION = re.compile(r"norm|modulation|\bmod\b|_mod\.|ada|time|embed")


def add_lora(denoiser: nn.Module, rank: int, alpha: float, dropout: float, targets: tuple[str, ...]) -> None:
    """Attach a LoRA adapter with float32 weights; B starts at zero, so the policy starts as the reference."""
    from peft import LoraConfig

    inject(denoiser, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets),
                                init_lora_weights="gaussian"), "default")
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def inject(network: nn.Module, settings, name: str) -> None:
    """Attach an adapter of these settings of peft, also where diffusers has no way to for this network."""
    if hasattr(network, "add_adapter"):
        network.add_adapter(settings, name)
    else:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(settings, network, name)


def remove_adapters(network: nn.Module) -> None:
    """Leave the network as it was before adapters were attached, where diffusers has no way to."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    if hasattr(network, "peft_config"):
        recurse_remove_peft_layers(network)
        del network.peft_config


def switch_adapters(network: nn.Module, on: bool) -> None:
    """With or without every adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(on)


def switch_dropout(network: nn.Module, on: bool) -> None:
    """Training mode for dropout alone: some networks compute otherwise, or give another output, in training mode."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.train(on)


def put_in_training_mode(network: nn.Module, kinds: tuple[str, ...]) -> None:
    """Layers of these classes, and none of what they are made of."""
    for module in network.modules():
        if type(module).__name__ in kinds:
            module.training = True


def layer_of(network: nn.Module, parameter: str) -> nn.Module:
    """The layer that a parameter, perhaps of its adapter, belongs to."""
    return network.get_submodule(parameter.partition(".lora_")[0] if ".lora_" in parameter else
                                 parameter.rpartition(".")[0])


def change_with(layers: Iterable[nn.Module], run: Callable[[], Tensor]) -> float:
    """The largest change of what `run` gives when noise is added to the outputs of these layers."""
    def disturb(module, arguments, output):
        return output + torch.randn_like(output)

    before = run()
    handles = [layer.register_forward_hook(disturb) for layer in layers]
    try:
        return float((run() - before).abs().max())
    finally:
        for handle in handles:
            handle.remove()


def scale_lora(denoiser: nn.Module, strength: float) -> None:
    """Set every LoRA layer's weight to `strength` times its own alpha / rank."""
    from peft.tuners.lora import LoraLayer

    for module in denoiser.modules():
        if isinstance(module, LoraLayer):
            for name in module.scaling:
                module.set_scale(name, strength)
