"""A network's repeated blocks compiled in place: one graph serves all blocks of a kind, in seconds instead of minutes.

Names of weights, and so checkpoints and exports, stay as they are: what is compiled is each block's forward.
"""

import torch
from torch import nn

from visalign.errors import UserError

BACKEND = "inductor"
GRAPHS = 64
"""Of one kind of block: with and without adapter, with and without gradients, each in a few shapes. torch gives up
compiling after 8, without a word that is heard."""


def repeated_blocks(network: nn.Module) -> list[nn.Module]:
    """Those of the classes that diffusers names for this, else all members of the network's own lists of modules."""
    names = {name for module in network.modules() for name in getattr(module, "_repeated_blocks", None) or ()}
    found = [module for module in network.modules() if type(module).__name__ in names]
    return found or [block for part in network.children() if isinstance(part, nn.ModuleList) for block in part]


def compile_blocks(network: nn.Module) -> None:
    """Compile the forward of every repeated block, at first for the shape it sees, then for any.

    After adapters are attached, and before blocks are recomputed or the network is wrapped. Raises UserError where
    there are none.
    """
    blocks = repeated_blocks(network)
    if not blocks:
        raise UserError(f"model.compile: {type(network).__name__} has no repeated blocks; leave it out")
    _prove(next(network.parameters()).device)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
    for block in blocks:
        block.forward = torch.compile(block.forward, backend=BACKEND)


def _prove(device: torch.device) -> None:
    """Raise UserError where nothing can be compiled, which else shows in the first step."""
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x + x

    try:
        torch.compile(doubled, backend=BACKEND)(torch.ones(2, device=device))
    except Exception as error:  # of torch, a compiler, or Triton: they have no common kind
        needed = "Triton" if device.type == "cuda" else "a C++ compiler"
        raise UserError(f"model.compile: torch cannot compile here ({' '.join(str(error).split())[:200]}); install "
                        f"{needed}, or leave it out") from error
