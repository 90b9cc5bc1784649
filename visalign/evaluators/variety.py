"""Variety within a prompt: how different the pictures for one prompt are, which is what collapse takes away."""

import torch
from torch import Tensor


def within_prompt_variety(features: Tensor) -> float:
    """Mean pairwise cosine distance of one prompt's pictures from unit features [n, d]; 0 = all alike.

    Raises ValueError for fewer than two pictures.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"variety needs at least two pictures of a prompt, got {n}")
    similarity = features @ features.T
    off_diagonal = similarity.sum() - similarity.diagonal().sum()
    return float(1 - off_diagonal / (n * (n - 1)))


def variety_per_prompt(features: Tensor, prompts: list[str]) -> dict[str, float]:
    """`within_prompt_variety` of every prompt that has at least two pictures."""
    groups: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    return {p: within_prompt_variety(features[torch.tensor(rows)]) for p, rows in groups.items() if len(rows) > 1}
