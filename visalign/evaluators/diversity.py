"""Diversity within a prompt: how different the generations for one prompt are, which collapse destroys.

Features are unit vectors [P, K, D]: P prompts with K generations each. Everything but the spread ratio follows from
the eigenvalues of each prompt's K x K cosine kernel, divided by K so that they sum to 1.
"""

import math

import numpy as np
import torch
from torch import Tensor

from visalign.evaluators.statistics import Estimate, over_prompts

ORDERS = {"vendi": 1.0, "vendi_half": 0.5, "vendi_2": 2.0, "vendi_inf": math.inf}
"""Vendi scores by name and order: 1/2 counts rare generations more, infinity only the most common kind."""
_PROMPTS_AT_ONCE = 64


def spectrum(features: Tensor) -> Tensor:
    """Eigenvalues of each prompt's kernel, float64 [P, K], from 0 to 1, ascending, summing to 1.

    Raises ValueError for fewer than two generations a prompt, or features that are not finite.
    """
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"diversity needs at least two generations of each prompt, got {tuple(features.shape[:2])} "
                         "(prompts, generations)")
    if not features.isfinite().all():
        prompt = int((~features.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"the features of prompt {prompt + 1} are not finite")
    parts = []
    for part in features.split(_PROMPTS_AT_ONCE):
        part = torch.nn.functional.normalize(part.double(), dim=-1)
        parts.append(torch.linalg.eigvalsh(part @ part.mT / part.shape[1]).clamp(min=0))
    values = torch.cat(parts)
    return values / values.sum(1, keepdim=True)


def vendi(values: Tensor, order: float = 1.0) -> Tensor:
    """Vendi score [P] of a spectrum [P, K] (Friedman and Dieng 2022; orders by Pasarkar and Dieng 2023), in [1, K].

    The exponential of the eigenvalues' Renyi entropy: 1 when all generations are alike, K when all are orthogonal.
    """
    if order == 1:
        return torch.special.entr(values).sum(1).exp()
    if math.isinf(order):
        return 1 / values.amax(1)
    return torch.where(values > 1e-12, values, 0.0).pow(order).sum(1).pow(1 / (1 - order))


def effective_rank(values: Tensor) -> Tensor:
    """exp(entropy of the normalised singular values of a prompt's features) (Roy and Vetterli 2007), [P]."""
    singular = values.clamp(min=0).sqrt()
    return torch.special.entr(singular / singular.sum(1, keepdim=True)).sum(1).exp()


def distance(features: Tensor) -> Tensor:
    """Mean pairwise cosine distance within each prompt, [P]; 0: all alike."""
    count = features.shape[1]
    features = torch.nn.functional.normalize(features.double(), dim=-1)
    total = features.sum(1).square().sum(-1)  # K diagonal ones and all pairs twice
    return 1 - (total - count) / (count * (count - 1))


def per_prompt(features: Tensor) -> dict[str, Tensor]:
    """Every measure by name, each float64 [P]. `extra` is the Vendi score less 1: kinds of image beyond the first."""
    values = spectrum(features)
    found = {name: vendi(values, order) for name, order in ORDERS.items()}
    return found | {"extra": found["vendi"] - 1, "distance": distance(features),
                    "effective_rank": effective_rank(values)}


def spread_ratio(features: Tensor, seed: int = 0) -> Estimate:
    """Share of the features' total variance that lies within prompts (traces of covariances), in [0, 1]."""
    points = features.double().numpy()
    middle = points.mean(1)
    within = np.square(points - middle[:, None]).sum(-1).mean(1)

    def ratio(rows: np.ndarray) -> float:
        between = np.square(middle[rows] - middle[rows].mean(0)).sum(-1).mean()
        inner = within[rows].mean()
        return inner / (inner + between) if inner + between > 0 else 0.0

    return over_prompts(ratio, len(points), seed)
