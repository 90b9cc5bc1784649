"""How much memory there is: of the GPU in the machine, of one that is planned for, or of the machine itself."""

import os
from dataclasses import dataclass

import psutil
import torch

from visalign.generators.hardware.devices import pick_device


@dataclass(frozen=True)
class Card:
    """Where a run computes and how much it may take, in bytes; words: as a person calls it. planned: not this one."""

    device: torch.device
    bytes: int
    words: str
    planned: bool = False


def find_card(device: str, planned: float | None = None) -> Card:
    """planned: GiB of a GPU that need not be here. Raises UserError for a device that is not here and is not planned.

    Of several processes each has the same answer: all of a GPU, and its share of the machine.
    """
    if planned is not None:
        return Card(torch.device("cuda"), round(planned * 2**30), f"a GPU of {planned:g} GiB", True)
    found, several = pick_device(device), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if found.type == "cuda":
        free, whole = torch.cuda.mem_get_info()
        used = 0 if several > 1 else whole - free
        name = torch.cuda.get_device_name()
        return Card(found, whole - used, f"{name}, {in_gib(whole - used)} of its {in_gib(whole)} GiB free")
    memory = psutil.virtual_memory()
    share = memory.total // several if several > 1 else memory.available
    return Card(found, share, f"this machine, {in_gib(share)} of its {in_gib(memory.total)} GiB free")


def in_gib(size: float) -> str:
    """'1.50' of a number of bytes, with fewer digits the larger it is."""
    gib = size / 2**30
    return f"{gib:.2f}" if gib < 100 else f"{gib:,.0f}"
