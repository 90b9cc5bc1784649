"""What is put on a network: LoRA adapters, and taps that read the outputs of its blocks."""

from collections.abc import Callable

from torch import nn


class _Enough(Exception):
    """The outputs that were asked for are there."""


def outputs_of(modules: list[nn.Module], run: Callable[[], None]) -> list:
    """What `modules` put out while `run` calls their network; it is left once the last of them has answered."""
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


def add_lora(denoiser: nn.Module, rank: int, alpha: float, dropout: float, targets: tuple[str, ...]) -> None:
    """Attach a LoRA adapter with float32 weights; B starts at zero, so the policy starts as the reference."""
    from peft import LoraConfig

    denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets),
                                    init_lora_weights="gaussian"))
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def scale_lora(denoiser: nn.Module, strength: float) -> None:
    """Set every LoRA layer's weight to `strength` times its own alpha / rank."""
    from peft.tuners.lora import LoraLayer

    for module in denoiser.modules():
        if isinstance(module, LoraLayer):
            for name in module.scaling:
                module.set_scale(name, strength)
