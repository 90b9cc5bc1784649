"""Style and diversity of texts: numbers worked out by hand."""

import math

import numpy as np
import pytest

from visalign.evaluators.text_style import (
    ANSWER_SHARES,
    TEXT_DIVERSITY,
    distinct,
    first_word_entropy,
    identical_share,
    self_bleu,
    text_diversity,
    text_style_of,
)
from visalign.media.answers import Answer
from visalign.media.samples import Sample
from visalign.media.text_measures import TEXT_STYLE


def style(text):
    return dict(zip(TEXT_STYLE, text_style_of(Sample("p", Answer(text))), strict=True))


def split(*texts):
    return [text.split() for text in texts]


def test_style_of_an_answer():
    found = style("Sure:\n1. Boil it.\n2) Eat it\n- slowly")
    assert found["words"] == 9 and found["list_markers"] == 3 and found["refusals"] == 0
    # sure 1 boil it 2 eat it slowly: 8 tokens, 7 of them different, 4 + 1 + 4 + 2 + 1 + 3 + 2 + 6 = 23 signs
    assert found["type_token_ratio"] == 7 / 8 and found["word_length"] == 23 / 8
    assert found["capitals"] == pytest.approx(3 / 21)  # S, B, E of the 23 signs that are not 1 and 2
    assert style("I'm sorry, I can't help with that.")["refusals"] == 1
    assert style("a b c a b c")["repeated"] == 0.25
    assert set(style("").values()) == {0.0}


def test_distinct_counts_over_all_texts():
    """a b c | a b d: words a b c a b d, 4 of 6 differ; pairs ab bc ab bd, 3 of 4."""
    tokens = split("a b c", "a b d")
    assert distinct(tokens, 1) == 4 / 6 and distinct(tokens, 2) == 3 / 4
    assert distinct(split("a", "b"), 2) == 0.0  # one-word answers have nothing distinct


def test_self_bleu_by_hand():
    """a b c d against a b c e: 1-grams 3/4; add-one makes 2-grams (2 + 1)/(3 + 1), 3-grams (1 + 1)/(2 + 1), 4-grams
    (0 + 1)/(1 + 1); equal lengths, no penalty: (3/4 x 3/4 x 2/3 x 1/2)^(1/4) = .1875^(1/4) = .658037."""
    assert self_bleu(split("a b c d", "a b c e")) == pytest.approx(0.1875**0.25)


def test_self_bleu_clips_and_punishes_brevity():
    """a a against a b: 1 of 2 counts (clipped), 2-grams (0 + 1)/(1 + 1), 3- and 4-grams (0 + 1)/(0 + 1): (1/4)^(1/4).
    a b against a a: the same. a against a b c d: all precisions 1, penalty e^(1 - 4/1); the other way 1/4, (0 + 1)/4,
    1/3, 1/2 and no penalty: (1/96)^(1/4)."""
    assert self_bleu(split("a a", "a b")) == pytest.approx(0.25**0.25)
    assert self_bleu(split("a", "a b c d")) == pytest.approx((math.exp(-3) + (1 / 96) ** 0.25) / 2)


def test_self_bleu_takes_the_best_of_the_others():
    assert self_bleu(split("a b c d", "a b c d", "a b c d")) == 1.0
    assert self_bleu(split("a b", "c d")) == 0.0  # no word in common
    # against both, a b finds a in one and b in the other: 1-grams 2/2, 2-grams (0 + 1)/(1 + 1)
    tokens = split("a b", "a c", "d b")
    mine = 0.5**0.25
    other = (0.5 * 0.5) ** 0.25
    assert self_bleu(tokens) == pytest.approx((mine + 2 * other) / 3)
    assert self_bleu(split("", "")) == 1.0 and self_bleu(split("", "a")) == 0.0


def test_first_words():
    """Three a and one b: -(3/4 ln 3/4 + 1/4 ln 1/4) = .562335; all alike 0, all different ln 4."""
    assert first_word_entropy(split("a x", "a y", "a", "b")) == pytest.approx(0.562335, abs=1e-6)
    assert first_word_entropy(split("a", "a")) == 0.0
    assert first_word_entropy(split("a", "b", "c", "")) == pytest.approx(math.log(4))


def test_identical_and_empty_shares():
    assert identical_share(["a", "a ", "b", "c"]) == 0.5 and identical_share(["a", "b"]) == 0.0
    found = dict(zip((*TEXT_DIVERSITY, *ANSWER_SHARES), text_diversity(["x", " \n", "x"]), strict=True))
    assert found["empty"] == pytest.approx(1 / 3) and found["identical"] == pytest.approx(2 / 3)
    alone = dict(zip((*TEXT_DIVERSITY, *ANSWER_SHARES), text_diversity(["a b"]), strict=True))
    assert alone["distinct_1"] == 1.0 and np.isnan([alone["self_bleu"], alone["identical"]]).all()
