"""The attention kernel that a setting names, in the forward pass and wherever a block is computed again."""

import contextlib
from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

_SDPA = {"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION}


def kernel(attention: str) -> contextlib.AbstractContextManager:
    """Within: torch's attention runs the chosen kernel; names that torch does not know change nothing."""
    return sdpa_kernel(_SDPA[attention]) if attention in _SDPA else contextlib.nullcontext()


def recomputing(attention: str) -> Callable:
    """How a diffusers network checkpoints a block: the backward pass computes it with the forward pass's kernel.

    The kernel is chosen by a `with` that has been left when gradients flow, so the recomputation needs its own.
    """
    def run(block: torch.nn.Module, *inputs):
        return checkpoint(block, *inputs, use_reentrant=False,
                          context_fn=lambda: (contextlib.nullcontext(), kernel(attention)))

    return run
