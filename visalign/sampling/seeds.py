"""Random numbers that belong to a place in the run, not to a process or a moment.

Whatever is drawn for a place is the same after a kill and for any number of processes. Every seed of sampling and of
training comes from here; another formula would give other numbers, and so other weights.
"""

import hashlib

import torch

PRIME, SMALLER_PRIME = 1_000_003, 7919


def place_seed(seed: int, place: int) -> int:
    """Of the sample at a place of a list, of a pair's place in the order of training, or of a step."""
    return seed * PRIME + place


def epoch_seed(seed: int, epoch: int) -> int:
    """Of an epoch's order of the data."""
    return seed * SMALLER_PRIME + epoch


def second_seed(seed: int) -> int:
    """Of a second measurement that shall not see the samples of the first."""
    return seed + SMALLER_PRIME


def stable_seed(*parts: int | str) -> int:
    """A seed in 0..2^63-1 from what the numbers are for."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def rng_at(seed: int, place: int) -> torch.Generator:
    """A generator of random numbers for a place; see `place_seed`."""
    return torch.Generator().manual_seed(place_seed(seed, place))


def rng_for(*parts: int | str) -> torch.Generator:
    """A generator of random numbers for whatever the parts name; see `stable_seed`."""
    return torch.Generator().manual_seed(stable_seed(*parts))
