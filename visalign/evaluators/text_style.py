"""Style statistics of single answers, and how different the answers to one prompt are by their words alone.

All of them move with length, distinct n-grams and self-BLEU most: models whose answers differ in length are compared
at equal length (text_length.py).
"""

import math
from collections import Counter

import numpy as np

from visalign.media.answers import without_control_tokens
from visalign.media.samples import Sample
from visalign.media.text_measures import TEXT_STYLE, text_measures
from visalign.media.words import ngrams, tokens_of

TEXT_SCALE = dict(zip(TEXT_STYLE, (100.0, 10.0, 5.0, 1.0, 1.0, 100.0, 10.0, 1.0), strict=True))
"""As SCALE of style.py: a base that never lists and never refuses counts as varying by one marker and a refusal in
ten, or the first list of all would be a drift of many standard deviations."""
TEXT_DIVERSITY = ("distinct_1", "distinct_2", "self_bleu", "first_word_entropy")
"""Of a prompt's answers together. self_bleu is the one that rises as diversity falls."""
ANSWER_SHARES = ("empty", "identical")
"""Shares of a prompt's answers: those without a word, and those that equal another one."""
BLEU_ORDER = 4


def text_style_of(sample: Sample) -> np.ndarray:
    """TEXT_STYLE of an answer, float64 [8]; of one without a word all are 0."""
    return np.array(text_measures(without_control_tokens(sample.answer or "")), np.float64)


def text_diversity(texts: list[str]) -> tuple[float, ...]:
    """TEXT_DIVERSITY and ANSWER_SHARES of a prompt's answers; those that need two answers are NaN for one."""
    texts = list(map(without_control_tokens, texts))
    tokens = [tokens_of(text) for text in texts]
    several = len(texts) > 1
    return (distinct(tokens, 1), distinct(tokens, 2), self_bleu(tokens) if several else math.nan,
            first_word_entropy(tokens) if several else math.nan, sum(not text.strip() for text in texts) / len(texts),
            identical_share(texts) if several else math.nan)


def distinct(tokens: list[list[str]], n: int) -> float:
    """Different n-grams over all n-grams of the texts (Li et al. 2016), in [0, 1]; 0 where no text has one."""
    grams = [gram for each in tokens for gram in ngrams(each, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(tokens: list[list[str]]) -> float:
    """Mean BLEU-4 of each text against the others (Zhu et al. 2018), in [0, 1]; 1: all alike."""
    counts = [[Counter(ngrams(each, n)) for n in range(1, BLEU_ORDER + 1)] for each in tokens]
    return float(np.mean([_bleu(i, counts, list(map(len, tokens))) for i in range(len(tokens))]))


def _bleu(i: int, counts: list[list[Counter]], lengths: list[int]) -> float:
    """BLEU of text i with all others as references: add-one for n >= 2, brevity penalty to the nearest length."""
    others = [k for k in range(len(counts)) if k != i]
    if not lengths[i]:
        return float(any(not lengths[k] for k in others))
    logs = 0.0
    for n in range(BLEU_ORDER):
        most: Counter = Counter()
        for k in others:
            most |= counts[k][n]  # of each n-gram the most often that one reference has it
        matched, total = (counts[i][n] & most).total(), counts[i][n].total()
        if n == 0 and not matched:
            return 0.0
        logs += math.log(matched / total if n == 0 else (matched + 1) / (total + 1))
    nearest = min((lengths[k] for k in others), key=lambda length: (abs(length - lengths[i]), length))
    return math.exp(logs / BLEU_ORDER + min(0.0, 1 - nearest / lengths[i]))


def first_word_entropy(tokens: list[list[str]]) -> float:
    """Entropy (nats) of the texts' first words; a text without a word counts as one that begins with none."""
    shares = np.array(list(Counter(each[0] if each else "" for each in tokens).values())) / len(tokens)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def identical_share(texts: list[str]) -> float:
    """Which share of the texts equals another one, spaces at their ends aside."""
    times = Counter(text.strip() for text in texts)
    return sum(count for count in times.values() if count > 1) / len(texts)
