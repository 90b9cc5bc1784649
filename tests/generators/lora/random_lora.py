"""A LoRA of random numbers, as a folder."""

import torch

from visalign.config import LoraSettings
from visalign.generators.lora.adapters import add_adapter, found_targets, remove_adapters
from visalign.generators.lora.export import write_loras


def write_random_lora(generator, folder, seed, size=1.0):
    """For a generator, which stays as it is; times `size`."""
    torch.manual_seed(seed)
    for network in generator.networks().values():
        add_adapter(network, LoraSettings(rank=2, alpha=3), generator.lora_targets or found_targets(network))
        with torch.no_grad():
            for parameter in (p for n, p in network.named_parameters() if "lora_B" in n):
                parameter.copy_(0.3 * size * torch.randn_like(parameter))
    folder.mkdir()
    write_loras(generator, folder)
    for network in generator.networks().values():
        remove_adapters(network)
    return folder
