"""What an adapter does to single layers, apart from any network: put on, taken off again, joined, folded, padded.

A layer's part is `LoraMatrices` (LoRA, rsLoRA, DoRA) or `LycorisMatrices` (LoHa, LoKr). The adapters of a network have
names: HELD stays below what is trained, START is what training began with, TRAINED alone has gradients.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from visalign.errors import UserError
from visalign.generators.lora.adapters import HELD, START, activate, adapters_of, inject, remove_adapters, tuner_layers

LYCORIS = {"loha": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
           "lokr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")}
"""The tensors of a layer by kind; of LoKr's each factor is whole or a product of two."""


@dataclass(frozen=True)
class LoraMatrices:
    """W + alpha / rank * raw @ down; with a magnitude (DoRA) each row of that is given this length.

    down [rank, in, ...], raw [out, rank, ...], magnitude [out], float32. alpha: the rank where it is None.
    """

    down: Tensor
    raw: Tensor
    alpha: float | None = None
    magnitude: Tensor | None = None

    @property
    def kind(self) -> str:
        return "lora" if self.magnitude is None else "dora"

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def up(self) -> Tensor:
        """`raw` with alpha / rank in it."""
        return self.raw * self.scale

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By their names in peft."""
        found = {"lora_A": self.down, "lora_B": self.raw}
        return found if self.magnitude is None else found | {"lora_magnitude_vector": self.magnitude}

    def folded(self, strength: float = 1.0) -> "LoraMatrices":
        """The same times `strength`, with alpha equal to the rank."""
        return LoraMatrices(self.down, self.up * strength, None, self.magnitude)


@dataclass(frozen=True)
class LycorisMatrices:
    """W + alpha / rank * a Hadamard (LoHa) or Kronecker (LoKr) product of `tensors`, which are named as in LYCORIS."""

    kind: str
    tensors: dict[str, Tensor]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def product(self) -> Tensor:
        """[out, in, ...], without alpha / rank. Raises RuntimeError for shapes that do not go together."""
        if self.kind == "loha":
            w1_a, w1_b, w2_a, w2_b = (self.tensors[side] for side in LYCORIS["loha"])
            return (w1_a @ w1_b) * (w2_a @ w2_b)
        first, second = (self.tensors[factor] if factor in self.tensors else
                         self.tensors[f"{factor}_a"] @ self.tensors[f"{factor}_b"] for factor in ("lokr_w1", "lokr_w2"))
        return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second)

    def folded(self) -> "LycorisMatrices":
        """The same with alpha equal to the rank."""
        first = next(name for name in LYCORIS[self.kind] if name in self.tensors)
        return replace(self, tensors=self.tensors | {first: self.tensors[first] * self.scale},
                       alpha=float(self.rank))


Matrices = LoraMatrices | LycorisMatrices
Layers = dict[str, Matrices]
"""By the names of a network's modules."""


@dataclass(frozen=True)
class Beneath:
    """What a model has before it is trained, by network: what stays below, and what training begins with."""

    held: dict[str, Layers]
    start: dict[str, Layers]


def one_kind(layers: Iterable[Matrices], where: str) -> str:
    """The one kind that all layers have. Raises UserError starting with `where` for several."""
    kinds = sorted({each.kind for each in layers})
    if len(kinds) > 1:
        raise UserError(f"{where}: holds {' and '.join(kinds)} layers together, which is not supported; keep one kind")
    return kinds[0]


def attach(network: nn.Module, layers: Layers, name: str, dropout: float = 0.0) -> None:
    """Put an adapter of this name on a network; every adapter it has is active then, and TRAINED has gradients."""
    inject(network, _peft_settings(layers, dropout), name)
    for module, matrices in layers.items():
        _put(network.get_submodule(module), name, matrices)
    activate(network, adapters_of(network))


def _peft_settings(layers: Layers, dropout: float):
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    kind = next(iter(layers.values())).kind
    ranks = {"^" + re.escape(module): each.rank for module, each in layers.items()}
    alphas = {"^" + re.escape(module): each.scale * each.rank for module, each in layers.items()}
    common = {"r": max(ranks.values()), "rank_pattern": ranks, "alpha_pattern": alphas,
              "target_modules": "|".join(map(re.escape, layers))}
    if kind in LYCORIS:
        return {"loha": LoHaConfig, "lokr": LoKrConfig}[kind](**common)
    return LoraConfig(lora_dropout=dropout, use_dora=kind == "dora", **common)


def _put(layer, name: str, matrices: Matrices) -> None:
    layer.r[name] = matrices.rank
    layer.scaling[name] = matrices.scale
    device = layer.get_base_layer().weight.device
    if matrices.kind in LYCORIS:
        layer.alpha[name] = matrices.alpha
        for side in layer.adapter_layer_names:
            if name in getattr(layer, side):
                del getattr(layer, side)[name]
        for side, tensor in matrices.tensors.items():
            getattr(layer, side)[name] = nn.Parameter(tensor.to(device))
        return
    layer.lora_alpha[name] = matrices.scale * matrices.rank
    for side, tensor in matrices.tensors.items():
        part = getattr(layer, side)[name]
        part.weight = nn.Parameter(tensor.to(device).reshape(part.weight.shape))


def taken(network: nn.Module, name: str) -> Layers:
    """An adapter's layers as they are on a network; {} where it has none of that name."""
    found: Layers = {}
    for module, layer in tuner_layers(network):
        kind = next((kind for kind, sides in LYCORIS.items() if hasattr(layer, sides[0])), None)
        alpha = layer.scaling.get(name, 1.0) * layer.r.get(name, 1)
        if kind is not None:
            tensors = {side: _kept(getattr(layer, side)[name]) for side in LYCORIS[kind]
                       if name in getattr(layer, side)}
            if tensors:
                found[module] = LycorisMatrices(kind, tensors, layer.r[name], alpha)
        elif name in layer.lora_A:
            magnitude = layer.lora_magnitude_vector[name].weight if name in layer.lora_magnitude_vector else None
            found[module] = LoraMatrices(_kept(layer.lora_A[name].weight), _kept(layer.lora_B[name].weight), alpha,
                                         None if magnitude is None else _kept(magnitude).flatten())
    return found


def kind_on(network: nn.Module, name: str) -> str:
    """The kind of an adapter that a network has."""
    for _, layer in tuner_layers(network):
        kind = next((kind for kind, sides in LYCORIS.items() if hasattr(layer, sides[0])), None)
        if kind is not None:
            return kind
        if name in layer.lora_A:
            return "dora" if name in layer.lora_magnitude_vector else "lora"
    raise ValueError(f"no layer has an adapter {name}")


def _kept(tensor: Tensor) -> Tensor:
    """A copy, so that one adapter's training leaves another as it is."""
    return tensor.detach().float().clone()


def joined(below: Layers, above: Layers) -> Layers:
    """Two plain LoRAs as one: A = [A1; A2], B = [s1 B1, s2 B2]; what one of them alone has stays, folded."""
    found = {module: each.folded() for module, each in (below | above).items()}
    for module in below.keys() & above.keys():
        first, second = below[module].folded(), above[module].folded()
        found[module] = LoraMatrices(torch.cat([first.down, second.down]), torch.cat([first.raw, second.raw], 1))
    return found


def of_one_rank(layers: dict[str, LoraMatrices]) -> dict[str, LoraMatrices]:
    """The same at the largest rank, filled up with zeros: older readers scale layers of other ranks wrongly."""
    most = max(each.rank for each in layers.values())

    def filled(tensor: Tensor, axis: int) -> Tensor:
        lacking = list(tensor.shape)
        lacking[axis] = most - tensor.shape[axis]
        return torch.cat([tensor, tensor.new_zeros(lacking)], axis) if lacking[axis] else tensor

    return {module: LoraMatrices(filled(each.down, 0), filled(each.up, 1), None, each.magnitude)
            for module, each in layers.items()}


@torch.no_grad()
def fuse(network: nn.Module) -> None:
    """Add the active adapters to a network's own weights, in single precision, and remove them."""
    for _, layer in tuner_layers(network):
        weight = layer.get_base_layer().weight
        for name in layer.active_adapters:
            weight.copy_((weight.float() + layer.get_delta_weight(name).float()).to(weight.dtype))
    remove_adapters(network)


def scale_adapters(network: nn.Module, strength: float) -> None:
    """Set the weight of every adapter that is not below to `strength` times its own.

    Raises UserError for a DoRA at another strength than 0 or 1: the lengths of its rows belong to 1.
    """
    for _, layer in tuner_layers(network):
        for name in layer.scaling.keys() - {HELD, START}:
            if name in getattr(layer, "lora_magnitude_vector", ()) and strength not in (0, 1):
                raise UserError(f"lora: a DoRA has no strength {strength:g}, only 0 and 1, since it sets the lengths "
                                "of rows")
            layer.set_scale(name, strength)


def changes_nothing(found: dict[str, Layers]) -> bool:
    """Whether every product is 0, as before the first training step."""
    return not any(each.kind == "dora" or each.scale and all(tensor.any() for tensor in each.tensors.values())
                   for layers in found.values() for each in layers.values())
