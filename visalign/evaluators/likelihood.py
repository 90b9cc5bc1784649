"""What preference training did to likelihoods: displacement and ranking accuracy.

Log-likelihoods [n] of chosen and rejected items under the policy and the reference. Generators have none at hand: minus
the denoising error at shared noise stands for it, up to a scale.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logit

from visalign.evaluators.judging import clustered_mean
from visalign.evaluators.statistics import Estimate


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


def idealised_accuracy(ref_chosen: np.ndarray, ref_rejected: np.ndarray, agreement: float, beta: float) -> float:
    """Ranking accuracy of the policy that solves DPO exactly (Chen et al. 2024).

    It adds logit(agreement) / beta to the reference's margin, agreement being the share of people who prefer the
    chosen. Raises ValueError when it is not between 0 and 1.
    """
    if not 0 < agreement < 1 or beta <= 0:
        raise ValueError(f"agreement must lie between 0 and 1 and beta above 0, got {agreement} and {beta}")
    return float(np.mean(ref_chosen - ref_rejected + logit(agreement) / beta > 0))


def ches(chosen: np.ndarray, rejected: np.ndarray) -> float:
    """CHES (Razin et al. 2024): <h_w, h_l> - |h_w|^2 of hidden states [tokens, D] summed over tokens; a high score
    warns that training on the pair displaces likelihood."""
    w, l = chosen.sum(0), rejected.sum(0)  # noqa: E741
    return float(w @ l - w @ w)
