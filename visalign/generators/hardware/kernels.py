"""The attention kernel named by a setting, in the forward pass and wherever a block is recomputed.

torch's own switch, `sdpa_kernel`, is global: a reward that scores in another thread would use whatever kernel the
generator has just selected, and its values would differ in the last digit from run to run. So the kernel is chosen for
the calling thread alone.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from visalign.errors import UserError


def _math(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool,
                    scale: float | None, grouped: bool) -> Tensor:
    return torch.ops.aten._scaled_dot_product_attention_math(query, key, value, mask, dropout, causal, None,
                                                             scale=scale, enable_gqa=grouped)[0]


def _ungrouped(query: Tensor, key: Tensor, value: Tensor, grouped: bool) -> tuple[Tensor, Tensor]:
    """Keys and values [..., heads, N, width], repeated where several heads of the query share them."""
    shared = query.shape[-3] // key.shape[-3] if grouped else 1
    return (key.repeat_interleave(shared, -3), value.repeat_interleave(shared, -3)) if shared > 1 else (key, value)


def _flash(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool,
           scale: float | None, grouped: bool) -> Tensor:
    key, value = _ungrouped(query, key, value, grouped)
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, dropout, causal,
                                                                          attn_mask=mask, scale=scale)[0]
    if mask is not None or query.dtype not in (torch.float16, torch.bfloat16):
        raise UserError("model.attention flash: the fused kernel takes no mask and no float32, which this model "
                        "needs; use model.attention=native or model.precision=bf16")
    width, scale = query.shape[-1], scale or query.shape[-1] ** -0.5
    query, key, value = (F.pad(each, (0, -width % 8)) for each in (query, key, value))  # in multiples of 8
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, False,
                                                              scale=scale)[0][..., :width]


def _efficient(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool,
               scale: float | None, grouped: bool) -> Tensor:
    key, value = _ungrouped(query, key, value, grouped)
    if mask is not None:
        tokens = key.shape[-2]
        rows = mask.expand(*query.shape[:-1], tokens)
        mask = F.pad(rows, (0, -tokens % 8))[..., :tokens]  # its rows must begin at multiples of 16 bytes
    return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, mask, torch.is_grad_enabled(),
                                                                  dropout, causal, scale=scale)[0]


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool,
                    scale: float | None, grouped: bool) -> Tensor:
    """The kernel that torch chooses where none is asked for: masks and float32 are not for a GPU's quickest."""
    quickest = query.device.type == "cpu" or mask is None and query.dtype in (torch.float16, torch.bfloat16)
    return (_flash if quickest else _efficient)(query, key, value, mask, dropout, causal, scale, grouped)


def _cudnn(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool,
           scale: float | None, grouped: bool) -> Tensor:
    key, value = _ungrouped(query, key, value, grouped)
    query, key, value = (each.contiguous() for each in (query, key, value))  # others give wrong values
    return torch.ops.aten._scaled_dot_product_cudnn_attention(query, key, value, mask, torch.is_grad_enabled(),
                                                              dropout, causal, False, scale=scale)[0]


def _of_diffusers(name: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float,
                  causal: bool, scale: float | None, grouped: bool) -> Tensor:
    """One of diffusers' back ends, which have tokens before heads, for networks of any kind."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    if mask is not None and name != "flex":
        raise UserError(f"model.attention {name}: this kernel takes no mask, which this model's prompts need; use "
                        "model.attention=native")
    key, value = _ungrouped(query, key, value, grouped)
    query, key, value = (each.transpose(-2, -3) for each in (query, key, value))
    return dispatch_attention_fn(query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale,
                                 backend=name).transpose(-2, -3)


_PACKAGES = {"flash_varlen": "flash_attn", "_flash_varlen_3": "flash_attn_interface", "flash_hub": "kernels",
             "flash_varlen_hub": "kernels", "_flash_3_hub": "kernels", "_flash_3_varlen_hub": "kernels"}
"""What diffusers' back ends need beside torch."""

_KERNELS = {"math": _math, "_native_math": _math, "flash": _flash, "_native_flash": _flash,
            "_native_efficient": _efficient, "_native_cudnn": _cudnn,
            **{name: partial(_of_diffusers, name) for name in ("flex", *_PACKAGES)}}

_ANYWHERE = ("native", "math", "_native_math", "flash", "_native_flash")
"""Kernels that run without a GPU."""


_HALF = ("_native_cudnn", *_PACKAGES)
"""Kernels without single precision."""


def check_attention(attention: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise UserError for a kernel that this machine lacks; compiled ones of the hub are fetched now.

    xformers is diffusers' own to find.
    """
    if attention not in _KERNELS:
        return
    if device.type != "cuda" and attention not in _ANYWHERE:
        raise UserError(f"model.attention {attention}: this kernel needs a GPU; without one there are "
                        f"{', '.join(_ANYWHERE)}")
    if dtype == torch.float32 and attention in _HALF:
        raise UserError(f"model.attention {attention}: this kernel has no single precision; set model.precision=bf16, "
                        "or use model.attention=native")
    package = _PACKAGES.get(attention)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"model.attention {attention} needs the package {package}, which is not installed; use "
                        "model.attention=native, or install it as its authors say for your card")
    if package or attention == "flex":
        _known_to_diffusers(attention)


def _known_to_diffusers(attention: str) -> None:
    import diffusers
    from diffusers.models.attention_dispatch import attention_backend

    try:
        with attention_backend(attention):  # fetches it, and leaves what other networks use as it was
            pass
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise UserError(f"model.attention {attention}: diffusers {diffusers.__version__} cannot use it here "
                        f"({' '.join(str(error).split())[:200]})") from error


class ChosenAttention(TorchFunctionMode):
    """Within this context this thread's scaled_dot_product_attention is one fixed kernel."""

    def __init__(self, run: Callable[..., Tensor]):
        super().__init__()
        self.run = run

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None,
                dropout_p: float = 0.0, is_causal: bool = False, scale: float | None = None,
                enable_gqa: bool = False) -> Tensor:
        device = query.device.type
        if torch.is_autocast_enabled(device):  # autocast knows torch's function by name, not the kernels behind it
            dtype = torch.get_autocast_dtype(device)
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
            if attn_mask is not None and attn_mask.is_floating_point():
                attn_mask = attn_mask.to(dtype)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
        with torch.autocast(device, enabled=False):
            return self.run(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def kernel(attention: str) -> contextlib.AbstractContextManager:
    """Within this context torch's attention runs the chosen kernel; names unknown to torch change nothing."""
    return ChosenAttention(_KERNELS[attention]) if attention in _KERNELS else contextlib.nullcontext()


Again = Callable[[], contextlib.AbstractContextManager]
"""Called while a block computes; gives what else it is to be computed again in."""


def recomputing(attention: str, again: Again = contextlib.nullcontext) -> Callable:
    """A diffusers checkpointing function: the backward pass recomputes a block with the forward pass's kernel.

    The kernel is chosen by a `with` that has exited when gradients flow, so the recomputation needs its own; `again`
    is for all else that is so.
    """
    def run(block: Callable, *inputs, **options):
        return checkpoint(block, *inputs, use_reentrant=False, context_fn=lambda: (
            contextlib.nullcontext(), _computed_again(attention, again())), **options)

    return run


@contextlib.contextmanager
def _computed_again(attention: str, others: contextlib.AbstractContextManager) -> Iterator[None]:
    with kernel(attention), others:
        yield


def recompute_blocks(blocks: Iterable[torch.nn.Module], attention: str,
                     again: Again = contextlib.nullcontext) -> None:
    """The same for networks whose own checkpointing gives a block less than it is given otherwise."""
    run = recomputing(attention, again)
    for block in blocks:
        def recomputed(*inputs, forward=block.forward, **options):
            return run(forward, *inputs, **options) if torch.is_grad_enabled() else forward(*inputs, **options)

        block.forward = recomputed
