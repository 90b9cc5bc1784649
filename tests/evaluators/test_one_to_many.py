"""The right one of many: by hand, by chance, with equal scores, and against independent pairs."""

import itertools

import numpy as np
import pytest

from visalign.evaluators.one_to_many import first_is_right, one_to_many, passes_ties, reciprocal_rank

WRONG = np.array([0.5, 0.1, -0.2])


def test_ties_by_hand():
    """Right (2.0, 1.6): gap 1.1, spread 0.4. Right (2.0, 1.0): gap 0.5, spread 1. Right (2.0, 0.4): one lies below."""
    assert passes_ties(np.array([2.0, 1.6]), WRONG)
    assert not passes_ties(np.array([2.0, 1.0]), WRONG) and not passes_ties(np.array([2.0, 0.4]), WRONG)


def test_places_by_hand():
    """First, second and last of four: 1, 1/2, 1/4, so accuracy@1 is 1/3 and the mean reciprocal rank 7/12. Pairs won:
    3, 2 and 0 of 3, so 5/9; the third power of that is 0.171."""
    found = one_to_many([np.append(value, WRONG) for value in (2.0, 0.2, -1.0)], [np.arange(4) == 0] * 3)
    assert found.accuracy.value == pytest.approx(1 / 3) and found.reciprocal_rank.value == pytest.approx(7 / 12)
    assert found.pair_accuracy.value == pytest.approx(5 / 9) and found.independent == pytest.approx((5 / 9) ** 3)
    assert found.places == (1, 2, 4) and found.samples == 4 and found.passed is None
    assert found.accuracy.low < 1 / 3 < found.accuracy.high


@pytest.mark.parametrize("wrong", [3, 9])
def test_chance_is_one_of_all(wrong):
    """1/4 of 3 wrong ones, 1/10 of 9; the mean reciprocal rank of n is the harmonic number over n."""
    size = wrong + 1
    found = one_to_many([np.zeros(size)] * 2, [np.arange(size) == 0] * 2)
    assert found.accuracy.value == found.accuracy_by_chance == pytest.approx(1 / size)
    assert found.reciprocal_rank.value == pytest.approx(sum(1 / place for place in range(1, size + 1)) / size)
    assert found.rank_by_chance == pytest.approx(found.reciprocal_rank.value)


def test_equal_scores_are_ordered_by_chance():
    """Against a listing of all orders: right (1, 1, 0), wrong (2, 1, 1)."""
    right, wrong = np.array([1., 1, 0]), np.array([2., 1, 1])
    places = [1 + 1 + order.index("r") for order in set(itertools.permutations("rrww"))]  # after the one above
    assert reciprocal_rank(right, wrong) == pytest.approx(np.mean([1 / place for place in places]))
    assert first_is_right(right, wrong) == 0 and first_is_right(right, wrong[1:]) == pytest.approx(1 / 2)
    assert reciprocal_rank(np.array([1.]), np.array([1.])) == pytest.approx(3 / 4)  # first or second


def test_a_rising_map_changes_no_order():
    rng = np.random.default_rng(0)
    scores, right = list(rng.normal(size=(20, 5))), [np.arange(5) == 0] * 20
    plain, mapped = one_to_many(scores, right), one_to_many([np.exp(each) for each in scores], right)
    assert plain == mapped


def test_independent_pairs_are_won_together_as_foretold():
    """A right one that beats each wrong one by its own coin: nothing in common, so accuracy@1 is a^n."""
    rng = np.random.default_rng(0)
    found = one_to_many([np.append(0.0, np.where(rng.random(3) < 0.8, -1.0, 1.0)) for _ in range(2000)],
                        [np.arange(4) == 0] * 2000)
    assert found.accuracy.value == pytest.approx(0.8 ** 3, abs=0.035)  # three standard errors
    assert found.independent == pytest.approx(0.8 ** 3, abs=0.03)


def test_what_is_no_test_is_refused():
    with pytest.raises(ValueError, match="right samples and wrong ones"):
        one_to_many([np.zeros(3)], [np.ones(3, bool)])
    with pytest.raises(ValueError, match="at least one prompt"):
        one_to_many([], [])
