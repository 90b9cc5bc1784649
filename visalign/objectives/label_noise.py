"""Losses for labels of which a known share is flipped."""

from torch import Tensor


def check_label_noise(label_smoothing: float, flip_rate: float) -> None:
    """Raise ValueError when both are set."""
    if label_smoothing and flip_rate:
        raise ValueError("label_smoothing and flip_rate model the same label noise: set one of them")


def noisy_label_loss(agree: Tensor, disagree: Tensor, label_smoothing: float, flip_rate: float) -> Tensor:
    """The loss given what it would be for the label (`agree`) and for the opposite label (`disagree`).

    cDPO: (1 - e) agree + e disagree. rDPO (Chowdhury et al. 2024): ((1 - e) agree - e disagree) / (1 - 2 e), whose
    mean over labels flipped with probability e is the loss of the clean label.
    """
    if flip_rate:
        return ((1 - flip_rate) * agree - flip_rate * disagree) / (1 - 2 * flip_rate)
    return (1 - label_smoothing) * agree + label_smoothing * disagree
