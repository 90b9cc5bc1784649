"""Reversal accuracy: exactly 0 for what is blind to contexts, and counted as labelled."""

import numpy as np
import pytest

from visalign.evaluators.reversals import InContext, reversals


def label(context, sides=("x", "y"), prompt="p"):
    return InContext(prompt, sides, context)


def test_a_blind_reward_scores_exactly_0_and_one_half_label_by_label():
    rng = np.random.default_rng(0)
    margins, labels, outcomes = [], [], []
    for i in range(40):
        blind = rng.normal()
        for context, outcome in (("larger", 1.0), ("smaller", 0.0)):
            margins.append(blind)
            labels.append(label(context, (f"{i}x", f"{i}y"), f"p{i % 10}"))
            outcomes.append(outcome)
    found = reversals(np.array(margins), np.array(outcomes), labels)
    assert found.couples == 40 and found.both.value == 0 and found.single.value == 0.5
    assert reversals(np.zeros(80), np.array(outcomes), labels).both.value == 0  # nor does a margin of 0 count


def test_right_under_both_contexts_counts_whichever_side_is_called_a():
    labels = [label("larger"), label("smaller", ("y", "x")), label("larger", ("u", "v")), label("smaller", ("u", "v"))]
    # x wins when larger, y when smaller: both labels say "a"; of u and v the second margin is wrong
    found = reversals(np.array([1.0, 2.0, 0.5, 0.5]), np.array([1.0, 1.0, 1.0, 0.0]), labels)
    assert found.couples == 2 and found.both.value == 0.5 and found.single.value == pytest.approx(0.75)


def test_equal_winners_ties_other_prompts_and_one_context_are_no_reversals():
    same = [label("larger"), label("smaller")]
    assert reversals(np.ones(2), np.ones(2), same) is None
    assert reversals(np.ones(2), np.array([1.0, 0.5]), same) is None
    opposite = np.array([1.0, 0.0])
    assert reversals(np.ones(2), opposite, [label("larger"), label("smaller", prompt="q")]) is None
    assert reversals(np.ones(2), opposite, [label("larger"), label("larger")]) is None  # two people disagree
