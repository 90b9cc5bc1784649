"""Additions to a network: LoRA adapters, and hooks that read or change the outputs of its parts."""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from visalign.config import LoraSettings
from visalign.errors import UserError, nearest

HELD, START, TRAINED = "held", "start", "default"
"""Names of adapters: below what is trained, what training began with, and what is trained."""

OF_ADAPTER = re.compile(r"\.(lora|hada|lokr)_")
"""In the names of an adapter's own parameters, after the name of its layer."""


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


def check_lora_names(denoiser: nn.Module, lora: LoraSettings, usual: tuple[str, ...] | None) -> None:
    """Raise UserError for names in the settings that no layer has; `usual`: the family's own targets."""
    if lora.targets is not None:
        check_targets(denoiser, lora.targets)
    if not (lora.rank_pattern or lora.alpha_pattern):
        return
    targets = lora.targets or usual or found_targets(denoiser)
    adapted = [name for name, _ in denoiser.named_modules() if _named(name, targets)]
    ends = {name.rpartition(".")[2] if not name[-1].isdigit() else ".".join(name.split(".")[-2:]) for name in adapted}
    for setting in ("rank_pattern", "alpha_pattern"):
        for end in getattr(lora, setting):
            if not any(_named(name, [end]) for name in adapted):
                raise UserError(f"model.lora.{setting} {end}: no adapted layer has that name{nearest(end, ends)}")


def _named(name: str, ends: Iterable[str]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in ends)


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


def add_adapter(denoiser: nn.Module, lora: LoraSettings, targets: tuple[str, ...]) -> None:
    """Attach a fresh adapter with float32 weights above those that are there; its difference starts at 0."""
    inject(denoiser, _peft_settings(lora, targets), TRAINED)
    activate(denoiser, [HELD, TRAINED])
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _peft_settings(lora: LoraSettings, targets: tuple[str, ...]):
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    patterns = {name: {re.escape(end): value for end, value in getattr(lora, name).items()}
                for name in ("rank_pattern", "alpha_pattern")}
    common = {"r": lora.rank, "target_modules": list(targets), **patterns}
    if lora.kind in ("loha", "lokr"):
        return {"loha": LoHaConfig, "lokr": LoKrConfig}[lora.kind](alpha=lora.alpha, **common)
    return LoraConfig(lora_alpha=lora.alpha, lora_dropout=lora.dropout, init_lora_weights="gaussian",
                      use_rslora=lora.kind == "rslora", use_dora=lora.kind == "dora", **common)


def inject(network: nn.Module, settings, name: str) -> None:
    """Attach an adapter of these settings of peft, also where diffusers has no way to for this network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
        if hasattr(network, "add_adapter"):
            network.add_adapter(settings, name)
        else:
            from peft import inject_adapter_in_model

            inject_adapter_in_model(settings, network, name)


def remove_adapters(network: nn.Module) -> None:
    """Leave the network as it was before adapters were attached."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers

    if adapters_of(network):
        recurse_remove_peft_layers(network)
        del network.peft_config
        network._hf_peft_config_loaded = False  # else only adapters would be saved


def keep_adapters(network: nn.Module, names: Collection[str]) -> None:
    """Remove all other adapters of a network."""
    kept = [name for name in adapters_of(network) if name in names]
    if not kept:
        remove_adapters(network)
        return
    activate(network, kept)
    for name in set(adapters_of(network)) - set(kept):
        for _, layer in tuner_layers(network):
            layer.delete_adapter(name)
        del network.peft_config[name]


def adapters_of(network: nn.Module) -> list[str]:
    """The names of a network's adapters, the oldest first."""
    return list(getattr(network, "peft_config", None) or {})


def tuner_layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers that have adapters, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer))


def activate(network: nn.Module, names: Collection[str]) -> None:
    """Only these adapters take part, in this order; TRAINED has gradients where it does."""
    for _, layer in tuner_layers(network):
        own = layer.scaling.keys()
        layer.set_adapter([name for name in names if name in own], inference_mode=True)
        layer.set_requires_grad(TRAINED, TRAINED in names)


def switch_adapters(layers: Iterable[nn.Module], names: Collection[str]) -> None:
    """As `activate` for these layers, which keep their gradients: in every step, where peft's own way takes long."""
    for layer in layers:
        layer._active_adapter = [name for name in names if name in layer.scaling]


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
    own = OF_ADAPTER.search(parameter)
    return network.get_submodule(parameter[:own.start()] if own else parameter.rpartition(".")[0])


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
