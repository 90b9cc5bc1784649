"""Parts of a pipeline that lie in host memory and are on the device only while they are used."""

from collections.abc import Iterable

import torch
from torch import nn

HOME = torch.device("cpu")


class FrozenParts:
    """Text encoders and VAE, which come to the device when they are called and leave when a network runs.

    A run that has cached its encodings then trains without them. Encoders stay together, so that encoding many prompts
    moves nothing; a network that is replaced while a pipeline is watched sends nobody away, since its layers do not
    run. apart: whether VAE and encoders are never on the device together, where prompts need no VAE. here: names of
    those on the device.
    """

    def __init__(self, parts: dict[str, nn.Module], networks: Iterable[nn.Module], device: torch.device, apart: bool):
        self.parts, self.device, self.apart, self.here = parts, device, apart, set()
        for name, part in parts.items():
            move(part, HOME)
            for module in part.modules():  # some are entered by a method of their own
                module.register_forward_pre_hook(lambda *_, name=name: self.bring(name))
        for network in networks:
            for layer in network.children():
                layer.register_forward_pre_hook(lambda *_: self.leave())

    def bring(self, name: str) -> None:
        if name not in self.here:
            if self.apart and ("vae" in self.here) != (name == "vae"):
                self.leave()
            move(self.parts[name], self.device)
            self.here.add(name)

    def leave(self) -> None:
        while self.here:
            move(self.parts[self.here.pop()], HOME)


def move(part: nn.Module, device: torch.device) -> None:
    """To the device, in the precision it has."""
    part.to(device)


def stream_blocks(network: nn.Module, device: torch.device) -> None:
    """A network that is never trained lies in host memory; each block comes to the device when its turn comes.

    On a GPU the next block is copied while one computes.
    """
    from diffusers.hooks import apply_group_offloading

    move(network, HOME)
    apply_group_offloading(network, onload_device=device, offload_device=HOME, offload_type="block_level",
                           num_blocks_per_group=1, use_stream=device.type == "cuda")


def place(generator, offload: str, trained: bool) -> None:
    """Put a loaded generator's parts where `model.offload` wants them. trained: whether its networks will learn."""
    if offload == "none":
        generator.pipeline.to(generator.device)
        generator.call.device = generator.device
        return
    networks, generator.offload = generator.networks(), offload
    generator.streams_blocks = offload == "blocks" and not trained
    parts = {name: part for name, part in generator.pipeline.components.items()
             if isinstance(part, nn.Module) and name not in networks}
    FrozenParts(parts, networks.values(), generator.device, apart=generator.sources is None)
    for network in networks.values():
        if generator.streams_blocks:
            stream_blocks(network, generator.device)
        else:
            move(network, generator.device)
