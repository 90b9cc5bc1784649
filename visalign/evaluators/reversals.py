"""Preference reversals: the same pair, labelled under two contexts, with opposite winners.

    reversal accuracy = share of such couples that a reward orders as labelled under both contexts

A reward that is blind to contexts gives a pair one margin, so that it scores exactly 0 there and 1/2 label by label.

Context-aware preference modelling: Pitis et al. 2024, arXiv 2407.14916 (its abstract; the measure is derived).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from visalign.evaluators.reward_accuracy import clustered_mean, correctness
from visalign.evaluators.statistics import Estimate


@dataclass(frozen=True)
class Reversals:
    """couples: of labels of one pair that contexts turn round. both: share ordered rightly under both contexts; single:
    share of their labels that is."""

    couples: int
    both: Estimate
    single: Estimate


@dataclass(frozen=True)
class InContext:
    """What a label is of. sides: identify a and b; a couple's labels may name them in either order."""

    prompt: str
    sides: tuple[str, str]
    context: str


def reversals(margins: np.ndarray, outcomes: np.ndarray, labels: Sequence[InContext]) -> Reversals | None:
    """Margins and outcomes [n] as of `agreement`; None where no pair has opposite winners under two contexts."""
    of_pair = defaultdict(list)
    for place, label in enumerate(labels):
        if outcomes[place] != 0.5:
            of_pair[label.prompt, frozenset(label.sides)].append(place)
    right = correctness(np.asarray(margins, np.float64), np.asarray(outcomes, np.float64))

    def winner(place: int) -> str:
        return labels[place].sides[0 if outcomes[place] > 0.5 else 1]

    couples = [(i, j) for places in of_pair.values() for i, j in combinations(places, 2)
               if labels[i].context != labels[j].context and winner(i) != winner(j)]
    if not couples:
        return None
    prompts = np.array([labels[i].prompt for i, _ in couples])
    pairs = right[np.array(couples)]
    return Reversals(len(couples), clustered_mean((pairs == 1).all(1).astype(float), prompts),
                     clustered_mean(pairs.mean(1), prompts))
