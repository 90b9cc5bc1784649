"""How clear an annotation is, by the margin of a trained reward (Wang et al. 2024, Secrets of RLHF in LLMs II).

mu and sd are the mean and the standard deviation over an ensemble's members of the margin of the labelled winner.

Differs from the paper in: a strength stays in [0, most], since a negative one would turn the loss's margin round and a
large one lets the reward chase its own scale; and the chance of a wrong label is said for every pair, where the paper
flips the tenths with the lowest mu.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit


@dataclass(frozen=True)
class Strength:
    """Of n annotations, each [n]: strength in [0, most], chance that the label is wrong, mean and std of the margin."""

    strength: np.ndarray
    flip_chance: np.ndarray
    margin: np.ndarray
    margin_std: np.ndarray


def strength_of(margins: np.ndarray, most: float) -> Strength:
    """From the labelled winner's margins by member, in log-odds, [n, E].

    flip_chance: mean probability, over the members, that the other side is better.
    """
    mean = margins.mean(1)
    return Strength(mean.clip(0, most), expit(-margins).mean(1), mean, margins.std(1))
