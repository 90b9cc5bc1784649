"""Several sources in one order: shares are kept, everything is seen, and processes and restarts change nothing."""

from collections import Counter

from visalign.trainers.mixture import Mixture, visits_of
from visalign.trainers.order import DataOrder


def test_shares_become_visits_of_an_epoch():
    assert visits_of([60, 1000], [None, 0.25]) == [60, 20]  # 60 are three quarters of 80
    assert visits_of([90, 3], [0.9, 0.1]) == [90, 10]
    assert visits_of([5, 30], [0.5, 0.5]) == [30, 30]  # every item of both at least once


def test_a_large_source_is_gone_through_part_by_part():
    mixture = Mixture([[0, 1], [2, 3, 4, 5, 6]], [4, 2], seed=3)
    epochs = [mixture.visits(epoch) for epoch in range(5)]
    assert all(Counter(visits[:4]) == {0: 2, 1: 2} for visits in epochs)
    parts = [index for visits in epochs for index in visits[4:]]
    assert sorted(parts[:5]) == sorted(parts[5:]) == [2, 3, 4, 5, 6] and parts[:5] != parts[5:]


def test_a_place_holds_the_same_item_whenever_it_is_looked_up():
    items = [f"i{k}" for k in range(7)]
    mixture = Mixture([[0, 1], [2, 3, 4, 5, 6]], [4, 2], seed=3)
    order = DataOrder(items, 5, mixture)
    forwards = [order[place] for place in range(18)]
    assert [DataOrder(items, 5, mixture)[place] for place in reversed(range(18))] == forwards[::-1]
    assert all(Counter(forwards[start:start + 6]).total() == 6 for start in (0, 6, 12))
    assert forwards[:6] != forwards[6:12]
