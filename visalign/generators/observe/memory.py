"""Remembering what a pipeline's encoders answered, so that many short calls cost as much encoding as a few."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from visalign.generators.observe.watching import kept


@contextlib.contextmanager
def remembered(pipeline, networks: dict[str, nn.Module]) -> Iterator[None]:
    """Within it every part but `networks` answers equal inputs once; a VAE only encodes so."""
    with contextlib.ExitStack() as stack:
        for module in pipeline.components.values():
            if isinstance(module, nn.Module) and all(module is not network for network in networks.values()):
                is_vae = module is getattr(pipeline, "vae", None)
                stack.enter_context(_remembering(module, "encode" if is_vae else "forward"))
        yield


@contextlib.contextmanager
def _remembering(module: nn.Module, name: str) -> Iterator[None]:
    original, own, known = getattr(module, name), module.__dict__.get(name), {}

    def answer(*arguments, **named):
        key = _key((arguments, named))
        if key not in known:
            known[key] = original(*arguments, **named)
        return _fresh(known[key])

    setattr(module, name, functools.wraps(original)(answer))  # some libraries look at the signature
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)


def _fresh(output: Any) -> Any:
    """A copy that the pipeline may change; outputs that are no nested tensors are handed out as they are."""
    return kept(output) if pytree.tree_any(lambda leaf: isinstance(leaf, Tensor), output) else output


def _key(inputs: Any) -> str:
    digest = hashlib.sha256()
    for leaf in pytree.tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            digest.update(leaf.detach().cpu().float().numpy().tobytes())
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()
