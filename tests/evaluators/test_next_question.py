"""The next question: variances by hand, and what none of the people disagree on teaches nothing."""

import numpy as np
import pytest

from visalign.evaluators.next_question import answer_information, margin_variance, questions_by_gain


def test_the_variance_over_draws_and_over_weighted_prototypes_by_hand():
    margins = np.array([[1.0, 2.0], [3.0, 2.0]])
    assert margin_variance(margins).tolist() == [1.0, 0.0]  # however clear, all agree on the second
    # weights .25 and .75: mean 2.5, .25 * 2.25 + .75 * .25
    assert margin_variance(margins, np.array([[0.25], [0.75]])) == pytest.approx([0.75, 0.0])
    assert margin_variance(margins, np.array([[1.0], [0.0]])).tolist() == [0.0, 0.0]  # it is known who it is


def test_the_information_of_an_answer_by_hand():
    even, sure = np.log(4) * np.array([[1.0], [-1.0]]), np.array([[3.0], [9.0]])
    # chances .8 and .2: the entropy of their mean, log 2, less that of each, .500402
    assert answer_information(even) == pytest.approx([np.log(2) - 0.500402], abs=1e-6)
    # weights .75 and .25: chance .65 has .647447
    assert answer_information(even, np.array([[0.75], [0.25]])) == pytest.approx([0.647447 - 0.500402], abs=1e-6)
    assert answer_information(even, np.array([[1.0], [0.0]])) == pytest.approx([0], abs=1e-12)
    # all answer alike: much variance, and nothing to learn
    assert margin_variance(sure) == [9.0] > margin_variance(even) and answer_information(sure) < 0.02
    both = np.concatenate([even, sure], 1)[:, None, :, None]
    assert questions_by_gain(both) == [1, 0] and questions_by_gain(both, gain=answer_information) == [0, 1]
    assert answer_information(1000 * even) == pytest.approx([np.log(2)])


def test_which_side_is_which_is_nothing():
    margins = np.random.default_rng(0).normal(size=(8, 2, 5, 1))
    turned = margins * np.array([1, -1, 1, -1, 1])[:, None]
    assert questions_by_gain(margins) == questions_by_gain(turned)


def test_members_know_the_person_each_in_its_own_way():
    # each member's two people disagree by itself: a mean over members before the variance would see nothing
    margins = np.zeros((2, 2, 3, 1))
    margins[:, 0, 1, 0], margins[:, 1, 1, 0] = [1, -1], [-1, 1]
    margins[:, :, 2, 0] = [[0.5, 0.5], [-0.5, -0.5]]
    assert questions_by_gain(margins) == [1, 2, 0]
    sure = np.zeros((2, 2, 1, 1))
    sure[0] = 1
    assert questions_by_gain(margins, sure) == [0, 1, 2]  # nothing left to ask: as they came
