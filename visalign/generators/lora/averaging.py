"""Weighted averages of LoRAs, as products and not factor by factor: of rewards (rewarded soups, Rame et al. 2023,
arXiv 2306.04488), of runs (model soups, Wortsman et al. 2022, arXiv 2203.05482), or of one with the base (WiSE-FT,
Wortsman et al. 2022, arXiv 2109.01903).

    sum_i w_i B_i A_i = [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...]

So the average of merged models is a LoRA itself, of the ranks' sum. The mean of the factors would be another model:
(B_1 + B_2) (A_1 + A_2) / 4 holds products of one run's B with the other's A, which no run has learnt.
"""

from collections.abc import Iterable

import torch

from visalign.generators.lora.layers import Layers, LoraMatrices, joined


def weighted_sum(parts: Iterable[tuple[float, Layers]]) -> Layers:
    """Plain LoRAs times their weights as one, of the ranks' sum in every layer that several have."""
    total: Layers = {}
    for weight, layers in parts:
        total = joined(total, {module: each.folded(weight) for module, each in layers.items()})
    return total


def of_rank(found: dict[str, Layers], rank: int) -> tuple[dict[str, Layers], float]:
    """The nearest LoRAs of at most this rank, by network, and the share of the products' norm that they lack.

    Nearest in the Frobenius norm (Eckart and Young 1936). The share is sqrt(sum ||D - D'||^2 / sum ||D||^2) over all
    layers' products D.
    """
    kept: dict[str, Layers] = {}
    lost = total = 0.0
    for part, layers in found.items():
        kept[part] = {}
        for module, each in layers.items():
            kept[part][module], dropped, whole = _truncated(each, rank)
            lost, total = lost + dropped, total + whole
    return kept, (lost / total) ** 0.5 if total else 0.0


@torch.no_grad()
def _truncated(each: LoraMatrices, rank: int) -> tuple[LoraMatrices, float, float]:
    """A layer's best factors of this rank, and the squared norms of what is dropped and of all; in double precision,
    by the singular values of the small matrix between both factors' orthonormal bases."""
    down, up = each.down.double(), each.up.double()
    left, inner = torch.linalg.qr(up.flatten(1))
    right, outer = torch.linalg.qr(down.flatten(1).T)
    u, values, v = torch.linalg.svd(inner @ outer.T)
    whole, dropped = float(values.square().sum()), float(values[rank:].square().sum())
    if each.rank <= rank:
        return each, 0.0, whole
    root = values[:rank].sqrt()
    first, second = root[:, None] * (v[:rank] @ right.T), (left @ u[:, :rank]) * root
    return LoraMatrices(first.reshape(-1, *down.shape[1:]).float(),
                        second.reshape(up.shape[0], -1, *up.shape[2:]).float()), dropped, whole
