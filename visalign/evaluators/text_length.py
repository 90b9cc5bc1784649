"""Length, which decides most comparisons of texts: answers cut to equal length, and win rates at equal length."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.reward_accuracy import clustered_mean
from visalign.evaluators.statistics import Estimate, over_prompts
from visalign.media.words import words_in

LEAST_WORDS = 5
"""Answers cut to fewer words are nearly all alike, whatever they said, and nothing is compared."""
RIDGE = 1e-3
"""Weight of the penalty on the slope, without which it would grow for ever where length alone decides."""


@dataclass(frozen=True)
class EqualLength:
    """What was measured of both models' answers once more, when all were cut to so many words."""

    words: int
    base: PromptMetrics
    after: PromptMetrics


def shorter_median(models: Iterable[Iterable[str]]) -> int:
    """Words of the typical answer of the model that writes the shortest ones, at least 1; empty answers aside."""
    lengths = ([count for text in texts if (count := len(words_in(text)))] for texts in models)
    return max(1, int(min((np.median(each) for each in lengths if each), default=1)))


def length_controlled(first: np.ndarray, second: np.ndarray, first_length: np.ndarray,
                      second_length: np.ndarray) -> Estimate | None:
    """How often the first of two would win if its answers were as long as the second's (Dubois et al. 2024).

    Of scores [P, K] on the same prompts and the answers' words [P, K]: s(a) of the logistic regression
    P(win) = s(a + b tanh(d)), ties 1/2, with d the difference in words over its root mean square. Interval over
    prompts. None when nothing is known, or when one of the two wrote the longer answer every time.
    """
    known = np.isfinite(first) & np.isfinite(second)
    if not known.any():
        return None
    won = (first > second) + 0.5 * (first == second)
    apart = first_length - second_length
    size = np.sqrt(np.square(apart[known]).mean())
    if size and not apart[known].min() <= 0 <= apart[known].max():
        return None
    if np.ptp(won[known]) == 0:  # no regression has a finite intercept, and length made no difference
        return clustered_mean(won[known], np.broadcast_to(np.arange(len(won))[:, None], won.shape)[known])
    difference = np.tanh(apart / size) if size else np.zeros_like(won)

    def at_equal_length(rows: np.ndarray) -> float:
        kept = known[rows]
        return float(expit(_intercept(won[rows][kept], difference[rows][kept]))) if kept.any() else 0.5

    return over_prompts(at_equal_length, len(first))


def _intercept(won: np.ndarray, difference: np.ndarray, rounds: int = 50) -> float:
    """a of P(win) = s(a + b d) by Newton's method; b, and a little a, are held back by RIDGE."""
    x = np.stack([np.ones_like(difference), difference], 1)
    weights, penalty = np.zeros(2), RIDGE * np.array([1e-3, 1.0])
    for _ in range(rounds):
        chance = expit(x @ weights)
        slope = x.T @ (won - chance) - penalty * weights
        step = np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x + np.diag(penalty), slope)
        weights += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    return weights[0]
