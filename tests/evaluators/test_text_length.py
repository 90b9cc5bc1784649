"""Equal length: where answers are cut, and win rates worked out by hand."""

import numpy as np
import pytest

from visalign.evaluators.prompt_metrics import PromptMetrics
from visalign.evaluators.ranking import win_rate
from visalign.evaluators.text_length import EqualLength, length_controlled, shorter_median
from visalign.evaluators.verdict import verdict_of

HALF = np.full((20, 1), 0.5)


def column(*values):
    return np.repeat([value for value, _ in values], [times for _, times in values])[:, None].astype(float)


def test_answers_are_cut_to_the_median_of_the_shorter_model():
    assert shorter_median([["a b c", "a", "", "a b"], ["a b c d e"] * 3]) == 2  # of 3, 1, 2; the empty one aside
    assert shorter_median([["", ""], []]) == 1


def test_a_win_rate_at_equal_length_by_hand():
    """Ten comparisons 5 words longer, of which 8 were won, ten 5 shorter, of which 5: tanh(d) is the same c both ways,
    a + bc = logit .8 = 1.386294, a - bc = logit .5 = 0, so a = .693147 = log 2 and s(a) = 2/3, where 13/20 were won."""
    scores = column((1, 8), (0, 2), (1, 5), (0, 5))
    words = column((25, 10), (15, 10))
    found = length_controlled(scores, HALF, words, np.full((20, 1), 20.0))
    assert found.value == pytest.approx(2 / 3, abs=1e-4) and found.low < 0.65 < found.high
    assert win_rate(scores, HALF).share.value == 0.65


def test_at_the_same_lengths_it_is_the_win_rate():
    """The likelihood's slope in a is sum(won - s(a)), which is 0 at the share that was won."""
    scores = column((1, 13), (0, 5), (0.5, 2))  # ties are half a win
    assert length_controlled(scores, HALF, HALF, HALF).value == pytest.approx(0.7, abs=1e-6)
    assert win_rate(scores, HALF).share.value == pytest.approx(0.7)


def test_a_reward_that_is_length_alone_wins_half():
    words = column((10, 10), (30, 10))
    found = length_controlled(-words, np.full((20, 1), -20.0), words, np.full((20, 1), 20.0))
    assert found.value == pytest.approx(0.5, abs=1e-6)


def test_what_is_unknown_stays_unknown():
    longer = length_controlled(column((1, 10), (0, 10)), HALF, HALF + 10, HALF)
    assert longer is None  # never of equal length
    assert length_controlled(HALF * np.nan, HALF, HALF, HALF) is None
    always = length_controlled(HALF + 1, HALF, column((1, 10), (3, 10)), HALF + 1.5)
    assert always.value == 1.0 and always.low < 0.9  # 20 of 20 prompts do not prove a share of 1


def metrics(reward, extra=1.0):
    prompts = [f"p{i}" for i in range(20)]
    return PromptMetrics(prompts, 4, {"reward/proxy": [reward[0]] * 20, "reward/held": [reward[1]] * 20,
                                      "diversity/extra": [extra] * 20, "style/words": [20.0] * 20},
                         {"reward/proxy": 1.0, "reward/held": 1.0, "style/words": 5.0})


def test_the_reasons_say_what_is_left_of_a_fall_at_equal_length():
    base, after = metrics((0, 0)), metrics((1, -0.5), extra=0.5)
    gone = verdict_of(base, after, "proxy", equal_length=EqualLength(9, base, metrics((0, 0))))
    left = verdict_of(base, after, "proxy", equal_length=EqualLength(9, base, metrics((0, -0.3), extra=0.6)))
    assert gone.word == left.word == "hacked"
    assert sum("cut to 9 words" in reason and reason.endswith("its fall is gone") for reason in gone.reasons) == 2
    assert any("held changed by -0.30 standard deviations" in reason and reason.endswith("it fell as well")
               for reason in left.reasons)
    assert any("diversity within a prompt changed by -40 %" in reason for reason in left.reasons)
