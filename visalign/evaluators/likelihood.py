"""What preference training did to likelihoods: displacement and ranking accuracy.

Log-likelihoods [n] of chosen and rejected items under the policy and the reference. Generators do not give it: minus
the denoising error at shared noise replaces it, up to a scale.
"""

from dataclasses import dataclass

import numpy as np

from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate

GAP_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Shares of pairs below which the reference's gap is told."""


@dataclass(frozen=True)
class Likelihoods:
    """Shares of pairs. displaced: the chosen became less likely than under the reference. both_fell: and so did the
    rejected. ranked: the chosen is likelier than the rejected, by the policy and by the reference. implicit: the
    policy's change prefers the chosen (DPO's implicit reward)."""

    pairs: int
    displaced: Estimate
    both_fell: Estimate
    ranked: Estimate
    ranked_by_reference: Estimate
    implicit: Estimate


def likelihoods(chosen: np.ndarray, rejected: np.ndarray, ref_chosen: np.ndarray, ref_rejected: np.ndarray,
                prompts: list[str]) -> Likelihoods:
    """All shares with intervals over prompts (Razin et al. 2024 for displacement; Chen et al. 2024 for ranking)."""
    groups = np.unique(prompts, return_inverse=True)[1]
    fell, rejected_fell = chosen < ref_chosen, rejected < ref_rejected

    def share(truth: np.ndarray) -> Estimate:
        return clustered_mean(truth.astype(float), groups)

    return Likelihoods(len(chosen), share(fell), share(fell & rejected_fell), share(chosen > rejected),
                       share(ref_chosen > ref_rejected), share(chosen - ref_chosen > rejected - ref_rejected))


def gap_quantiles(gaps: list[float]) -> dict[float, float]:
    """The reference's own gap, log-likelihood of the chosen minus the rejected item, below which each share of pairs
    lies. Training seldom turns pairs that lie far below 0 (Chen et al. 2024)."""
    return dict(zip(GAP_SHARES, np.quantile(gaps, GAP_SHARES).tolist(), strict=True))
