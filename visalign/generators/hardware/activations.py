"""What a pass of a network takes in memory, counted on fake tensors: without weights, values or the device.

A pass with gradients keeps tensors for its backward; checkpointing keeps what blocks are given instead, and computes
one block again at a time. Both are found in one pass, in which each kind of block runs once: the others of its kind
take as much.
"""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from visalign.generators.hardware.kernels import ChosenAttention, fused_attention


@dataclass(frozen=True)
class Activations:
    """Bytes of a pass with gradients until its backward. recomputed: of its largest block, computed again."""

    kept: int
    with_checkpointing: int
    recomputed: int

    def of(self, checkpointing: bool) -> int:
        """The most that they take."""
        return self.with_checkpointing + self.recomputed if checkpointing else self.kept


def tensors_in(*trees: Any) -> list[Tensor]:
    """The tensors in nested containers, in order."""
    return [leaf for leaf in pytree.tree_leaves(trees) if isinstance(leaf, Tensor)]


@dataclass
class _Storages:
    """Distinct storages, held so that no other takes the place of one."""

    sizes: dict[int, int] = field(default_factory=dict)
    held: list[torch.UntypedStorage] = field(default_factory=list)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.sizes:
            self.sizes[storage._cdata] = storage.nbytes()
            self.held.append(storage)

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.sizes

    def without(self, *others: "_Storages") -> int:
        """Bytes of those that are in none of the others."""
        return sum(size for key, size in self.sizes.items() if not any(key in other.sizes for other in others))


@dataclass
class _Block:
    """What one kind of block keeps: bytes of its own, and which of its inputs and outputs; its outputs to copy."""

    own: int
    inputs: list[int]
    outputs: list[int]
    result: Any


class SavedTensors:
    """Counts what passes of one network keep for their backward. `block` is a checkpointing function of diffusers."""

    def __init__(self, network: nn.Module):
        self.weights, self.outside, self.inside, self.given = (_Storages() for _ in range(4))
        for tensor in (*network.parameters(), *network.buffers()):
            self.weights.add(tensor)
        self.own = self.largest = 0
        self._kinds: dict[tuple, _Block] = {}

    @contextlib.contextmanager
    def counting(self, into: _Storages) -> Iterator[None]:
        def pack(tensor: Tensor) -> Tensor:
            into.add(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield

    def block(self, run: Callable, *inputs, **options) -> Any:
        """The outputs of a block, for one of a kind that has run before without running it."""
        given = tensors_in(inputs, options)
        kind = (*block_kind(run), tuple(argument_kinds(inputs, options)))
        known = self._kinds.get(kind)
        if known is None:
            known = self._run(run, inputs, options, given)
            if isinstance(run, nn.Module):
                self._kinds[kind] = known
            outputs = known.result
            known.result = stand_ins(outputs)
        else:
            outputs = fresh(known.result)
        for tensor in given:
            self.given.add(tensor)
        made = tensors_in(outputs)
        for tensor in [given[place] for place in known.inputs] + [made[place] for place in known.outputs]:
            self.inside.add(tensor)
        self.own += known.own
        self.largest = max(self.largest, known.own + sum(made[place].untyped_storage().nbytes()
                                                         for place in known.outputs))
        return outputs

    def _run(self, run: Callable, inputs: tuple, options: dict, given: list[Tensor]) -> _Block:
        kept = _Storages()
        with self.counting(kept):
            result = run(*inputs, **options)
        own, made = _Storages(), tensors_in(result)
        for tensor in (*given, *made):
            own.add(tensor)
        places = [[i for i, each in enumerate(tensors) if each in kept] for tensors in (given, made)]
        return _Block(kept.without(self.weights, self.outside, own), *places, result)

    def found(self) -> Activations:
        outside = self.outside.without(self.weights)
        return Activations(outside + self.own + self.inside.without(self.weights, self.outside),
                           outside + self.given.without(self.weights, self.outside), self.largest)


@contextlib.contextmanager
def blocks_counted(blocks: Iterable[nn.Module], counter: SavedTensors) -> Iterator[None]:
    """Within it a network's blocks are run by the counter."""
    blocks = list(blocks)
    for block in blocks:
        block.forward = functools.partial(counter.block, block.forward)
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def hold_without_memory(module: nn.Module, mode: FakeTensorMode, dtype: torch.dtype, device: torch.device,
                        single: Callable[[str], bool] = lambda name: False) -> None:
    """Give a module tensors without memory on a device, which need not be here: what is trained keeps its type, so does
    what `single` says by its name, and the rest has `dtype`. Tensors that two layers share stay one."""
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor, name: str) -> Tensor:
        if id(tensor) not in made:
            kept = tensor.requires_grad or not tensor.is_floating_point() or single(name)
            empty = torch.empty(tensor.shape, dtype=tensor.dtype if kept else dtype, device="meta")
            made[id(tensor)] = FakeTensor(mode, empty, device)
        return made[id(tensor)]

    for prefix, layer in module.named_modules():
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                given = fake(parameter, f"{prefix}.{name}")
                # torch's own way to make a parameter of it takes an operation for each
                given.requires_grad_(parameter.requires_grad)._is_param = True
                layer._parameters[name] = given
        for name, buffer in list(layer._buffers.items()):
            if buffer is not None:
                layer._buffers[name] = fake(buffer, f"{prefix}.{name}")


def block_kind(run: Callable) -> tuple:
    """What a block is: its class, its class's place in the network and its parameters."""
    if not isinstance(run, nn.Module):
        return (id(run),)
    return (type(run), *((name, p.shape, p.dtype, p.requires_grad) for name, p in run.named_parameters()))


def argument_kinds(*trees: Any) -> Iterator[Any]:
    """Arguments as far as they decide what a block takes."""
    for leaf in pytree.tree_leaves(trees):
        yield (leaf.shape, leaf.dtype, leaf.requires_grad) if isinstance(leaf, Tensor) else repr(leaf)


@dataclass(frozen=True)
class _Like:
    """A tensor's kind, without the tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    requires_grad: bool

    def made(self) -> Tensor:
        empty = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        return empty.requires_grad_().clone() if self.requires_grad else empty


def stand_ins(result: Any) -> Any:
    """Outputs with their tensors replaced by what these are."""
    return pytree.tree_map(lambda leaf: _Like(leaf.shape, leaf.dtype, leaf.device, leaf.requires_grad)
                           if isinstance(leaf, Tensor) else leaf, result)


def fresh(kinds: Any) -> Any:
    """Outputs in memory of their own, with gradients where those that they stand for have them."""
    return pytree.tree_map(lambda leaf: leaf.made() if isinstance(leaf, _Like) else leaf, kinds)


class FusedAttention(ChosenAttention):
    """torch's attention as a fused kernel runs it. Left to itself, on fake tensors it may keep all scores."""

    def __init__(self):
        super().__init__(fused_attention)


class LiveTensors(TorchDispatchMode):
    """Counts the tensors that are made and alive at once, the weights of `network` apart. peak: bytes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tensors_in(result):
            self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


@contextlib.contextmanager
def each_kind_once(network: nn.Module, live: LiveTensors | None = None) -> Iterator[None]:
    """Within it every kind of a network's repeated blocks runs once; the others answer as it did, without gradients.

    live: counts what they would have taken.
    """
    kinds: dict[tuple, tuple[Any, int]] = {}
    blocks = [block for blocks in network.modules() if isinstance(blocks, nn.ModuleList) for block in blocks]
    live = live or LiveTensors(network)
    for block in blocks:
        block.forward = _once(block, block.forward, kinds, live)
    try:
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


def _once(block: nn.Module, forward: Callable, kinds: dict[tuple, tuple[Any, int]], live: LiveTensors) -> Callable:
    @functools.wraps(forward)  # some libraries look at the signature
    def answer(*inputs, **options):
        kind = (*block_kind(block), tuple(argument_kinds(inputs, options)))
        if kind in kinds:
            result, more = kinds[kind]
            live.peak = max(live.peak, live.now + more)
            return fresh(result)
        before, peak = live.now, live.peak
        live.peak = before
        result = forward(*inputs, **options)
        kinds[kind] = stand_ins(result), live.peak - before
        live.peak = max(peak, live.peak)
        return result

    return answer
