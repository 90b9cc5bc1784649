"""What is told of made pairs, by hand."""

import numpy as np
import pytest

from visalign.data.annotations import AnnotatedMedia, Annotation
from visalign.evaluation.augmented_kinds import augmented_kinds, label_chances, true_prompt


def pair(kind, outcome, a="p", b="p"):
    return Annotation(AnnotatedMedia(a, b"a"), AnnotatedMedia(b, b"b"), outcome, "here", kind=kind)


LABELLED = [pair("", {"quality": 1.0}), pair("", {"quality": 0.0}), pair("", {"quality": 0.5})]
PAIRS = [pair("causal blur", {"quality": 1.0}), pair("causal blur", {"quality": 0.0}, "q", "q"),
         pair("causal blur", {"quality": 0.0}, "q", "q"), pair("neutral crop", {"quality": 0.5, "alignment": 0.5}),
         pair("neutral crop", {"quality": 0.5}, "q", "q"), pair("causal colour", {"alignment": 0.0}, "a blue p", "p")]


def test_accuracy_of_causal_pairs_and_margins_in_units_of_the_labelled_ones():
    """Labelled margins 1 and 3 have a mean size of 2; the tie's 9 does not count. Blur: 4 right, -2 right, 1 wrong:
    2/3, sizes 4 of p and (2 + 1) / 2 of q: 2.75, / 2. Crop: 0.5 and -1.5: mean 1, / 2."""
    found = augmented_kinds(PAIRS, np.array([4, -2, 1, 0.5, -1.5, 7.0]), "quality", LABELLED, np.array([1, -3, 9.0]))
    assert [(each.dimension, each.kind, each.pairs) for each in found] == [
        ("quality", "causal blur", 3), ("quality", "neutral crop", 2)]
    assert found[0].accuracy.value == pytest.approx(2 / 3) and found[0].margin.value == pytest.approx(1.375)
    assert found[1].accuracy is None and found[1].margin.value == pytest.approx(0.5)
    assert found[1].margin.low <= 0.25 and found[1].margin.high >= 0.75
    assert "causal blur, 3 pairs: right 0.667 [" in found[0].in_words()


def test_where_nothing_labelled_has_a_winner_the_causal_pairs_are_the_unit_and_what_is_not_scored_is_left_out():
    margins = np.array([4, -2, np.nan, 0.5, -1.5, 7.0])
    blur, crop = augmented_kinds(PAIRS, margins, "quality", LABELLED[2:], np.array([9.0]))
    assert blur.pairs == 2 and crop.margin.value == pytest.approx(1 / 3)
    (alone,) = augmented_kinds(PAIRS[3:4], margins[3:4], "quality", LABELLED[2:], np.array([9.0]))
    assert alone.margin is None and alone.accuracy is None and alone.in_words() == "quality: neutral crop, 1 pairs: "


def test_the_true_prompt_of_a_changed_one():
    assert true_prompt(PAIRS[5]) == "p" and true_prompt(PAIRS[1]) == "q"


def test_the_chance_of_a_label_and_of_a_tie_by_hand():
    """s(1) = 0.731059, 2 s(-1) = 0.537883; the mean over the two dimensions of one pair, NaN where nothing is said."""
    pairs = [pair("", {"quality": 1.0}), pair("", {"quality": 0.0}), pair("", {"quality": 0.5}),
             pair("", {"quality": 0.5, "alignment": 0.5}), pair("", {"quality": 1.0})]
    log_odds = np.array([[1, 5], [1, 5], [-1, 5], [1, 0], [np.nan, 1]], dtype=float)
    assert label_chances(pairs, log_odds, ("quality", "alignment")) == pytest.approx(
        [0.731059, 0.268941, 0.537883, (0.537883 + 1) / 2, np.nan], abs=1e-6, nan_ok=True)
