"""Random numbers that belong to a place in the run, not to a process or a moment.

Whatever is drawn for sample `place` of epoch `epoch` is the same after a kill and for any number of processes.
"""

import hashlib

import torch


def stable_seed(*parts: int | str) -> int:
    """A seed in 0..2^63-1 from what the numbers are for."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def source(*parts: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(stable_seed(*parts))
