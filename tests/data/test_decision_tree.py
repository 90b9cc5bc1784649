"""HERON's order of rewards, by hand."""

from collections import Counter

import pytest

from visalign.data.decision_tree import decided_pairs, deciding_level, levels_note, margins_of
from visalign.errors import UserError

ALIGNMENT_SHARPNESS = (0.1, 0.5)


@pytest.mark.parametrize("a, level, better", [((0.80, 0.2), 1, "b"), ((0.95, 0.2), 0, "a"), ((0.80, 0.5), None, None)])
def test_the_first_level_that_differs_by_more_than_its_margin_decides(a, level, better):
    """Against (.75, .9): .05 of alignment is no difference, .20 is; then .7 of sharpness is, and .4 is not."""
    b = (0.75, 0.9)
    assert deciding_level(a, b, ALIGNMENT_SHARPNESS) == level
    pairs = decided_pairs({0: a, 1: b}, ALIGNMENT_SHARPNESS)
    assert [(p.number, q.number) for p, q in pairs] == ([(0, 1)] if better == "a" else [(1, 0)] if better else [])
    if pairs:
        assert pairs[0][0].score == pytest.approx(abs(a[level] - b[level])) and pairs[0][1].score == 0


def test_the_unit_of_a_reward_changes_nothing():
    points = {0: (0.1, 3.0), 1: (0.4, 1.0), 2: (0.45, 2.0), 3: (0.9, 0.0)}
    scaled = {number: (100 * x, y) for number, (x, y) in points.items()}
    orders = []
    for each in (points, scaled):
        margins = margins_of({"p": each}, ["x", "y"], 0.5)
        orders.append([(a.number, b.number) for a, b in decided_pairs(each, margins, top=9)])
    assert orders[0] == orders[1] and len(orders[0]) == 6
    assert margins_of({"p": points}, ["x", "y"], 0.5) == pytest.approx((0.5 * 0.285865, 0.5 * 1.118034), abs=1e-5)


def test_what_decided_is_counted_of_the_pairs_that_are_kept():
    points = {0: (0.80, 0.2), 1: (0.75, 0.9), 2: (0.2, 0.0)}
    decided = Counter()
    assert len(decided_pairs(points, ALIGNMENT_SHARPNESS, top=9, decided=decided)) == 3
    assert decided == {0: 2, 1: 1}
    assert levels_note(decided, ["alignment", "sharpness"]) == "of 3 pairs alignment decided 2, sharpness decided 1"
    once = Counter()
    assert len(decided_pairs(points, ALIGNMENT_SHARPNESS, top=1, decided=once)) == once.total() == 1


def test_a_reward_that_sees_no_difference_is_refused():
    with pytest.raises(UserError, match="y scores all generations alike, so it decides nothing"):
        margins_of({"p": {0: (1.0, 2.0), 1: (3.0, 2.0)}}, ["x", "y"])
