"""How a reward orders pairs that were made of annotations (data/augment.py), kind by kind."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from visalign.data.annotations import Annotation
from visalign.evaluators.reward_accuracy import clustered_mean, correctness
from visalign.evaluators.statistics import Estimate, mean_with_interval


@dataclass(frozen=True)
class AugmentedKind:
    """Of one kind in one dimension: accuracy of causal pairs (None of ties), and the mean |margin| in units of that of
    the labelled pairs, of the causal ones where no labelled pair has a winner. Intervals are over prompts."""

    dimension: str
    kind: str
    pairs: int
    accuracy: Estimate | None
    margin: Estimate | None

    def in_words(self) -> str:
        parts = [f"right {self.accuracy.value:.3f} [{self.accuracy.low:.3f}, {self.accuracy.high:.3f}]"] \
            if self.accuracy else []
        if self.margin:
            parts.append(f"mean margin {self.margin.value:.2f} [{self.margin.low:.2f}, {self.margin.high:.2f}] of "
                         "that of decided pairs")
        return f"{self.dimension}: {self.kind}, {self.pairs} pairs: {', '.join(parts)}"


def augmented_kinds(pairs: Sequence[Annotation], margins: np.ndarray, dimension: str, labelled: Sequence[Annotation],
                    their_margins: np.ndarray) -> list[AugmentedKind]:
    """Of pairs and the labelled ones that they were made of, margins [n] of each: a's value less b's. What was not
    scored is left out."""
    known = [i for i, pair in enumerate(pairs) if dimension in pair.outcome and np.isfinite(margins[i])]
    typical = next((size for size in (mean_margin(labelled, their_margins, dimension),
                                      mean_margin(pairs, margins, dimension)) if size), None)
    found = []
    for kind in sorted({pairs[i].kind for i in known}):
        rows = [i for i in known if pairs[i].kind == kind]
        outcomes = np.array([pairs[i].outcome[dimension] for i in rows])
        prompts = np.array([true_prompt(pairs[i]) for i in rows])
        correct = correctness(margins[rows], outcomes)
        sizes = np.abs(margins[rows])
        by_prompt = np.array([sizes[prompts == prompt].mean() for prompt in dict.fromkeys(prompts)])
        found.append(AugmentedKind(dimension, kind, len(rows),
                                   None if (outcomes == 0.5).any() else clustered_mean(correct, prompts),
                                   mean_with_interval(by_prompt / typical) if typical else None))
    return found


def mean_margin(items: Sequence[Annotation], margins: np.ndarray, dimension: str) -> float | None:
    """The mean |margin| of what has a winner; None where nothing has."""
    decided = np.array([item.outcome.get(dimension, 0.5) != 0.5 for item in items], dtype=bool)
    sizes = np.abs(margins[decided & np.isfinite(margins)])
    return float(sizes.mean()) if len(sizes) else None


def true_prompt(pair: Annotation) -> str:
    """The prompt of the side that wins; the sides of a tie have one prompt."""
    return (pair.b if 0.0 in pair.outcome.values() else pair.a).prompt


def label_chances(pairs: Sequence[Annotation], log_odds: np.ndarray, dimensions: Sequence[str]) -> np.ndarray:
    """How probable each label is by a reward, mean over the dimensions that have one; of a tie twice the probability of
    the less likely side. log_odds [n, D]: that a wins. NaN where nothing is scored."""
    a = expit(log_odds)
    labels = np.array([[pair.outcome.get(name, np.nan) for name in dimensions] for pair in pairs])
    chances = np.select([labels == 1, labels == 0, labels == 0.5], [a, 1 - a, 2 * np.minimum(a, 1 - a)], np.nan)
    known = np.isfinite(chances)
    return np.divide(np.where(known, chances, 0).sum(1), known.sum(1), out=np.full(len(a), np.nan),
                     where=known.any(1))
