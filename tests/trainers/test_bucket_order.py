"""Batches of one size: a function of seed and place, whatever the processes; what is left over comes another time."""

from collections import Counter

import pytest

from visalign.errors import UserError, notice
from visalign.trainers.bucket_order import BucketOrder
from visalign.trainers.mixture import Mixture

SIZES = [(8, 16)] * 7 + [(16, 8)] * 5 + [(4, 32)] * 2


def order(together=3, seed=1, mixture=None):
    return BucketOrder(list(range(len(SIZES))), seed, SIZES, together, mixture)


def test_a_batch_is_of_one_size_and_an_epoch_visits_an_item_once():
    places = [order()[place] for place in range(9)]  # 7 // 3 + 5 // 3 + 2 // 3 = 3 batches
    assert [len({SIZES[item] for item in places[start:start + 3]}) for start in (0, 3, 6)] == [1, 1, 1]
    assert Counter(SIZES[item] for item in places) == {(8, 16): 6, (16, 8): 3} and len(set(places)) == 9


def test_a_place_holds_the_same_item_whenever_it_is_looked_up():
    once = order()
    forwards = [once[place] for place in range(60)]
    assert [order()[place] for place in reversed(range(60))] == forwards[::-1]
    assert forwards != [order(seed=2)[place] for place in range(60)] and forwards[:9] != forwards[9:18]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_processes_share_the_batches_of_one_process(world):
    """Of global batches of 6, process r of w has places r * 6 / w to (r + 1) * 6 / w: of one size, all together."""
    size = 6 // world
    got = [[order(world * size)[(step * world + rank) * size + k] for k in range(size)]
           for step in range(4) for rank in range(world)]
    assert sum(got, []) == [order(6)[place] for place in range(24)]


def test_what_is_left_over_in_one_epoch_comes_in_others_and_is_said(capsys):
    notice.cache_clear()
    seen = {order()[place] for place in range(9 * 12)}
    assert seen == set(range(12))  # all but the two of the size that fills no batch
    said = capsys.readouterr().err
    assert "2 of 14 visits" in said and "4x32 (2)" in said and "3 of 14 visits" in said


def test_epochs_of_a_mixture_may_have_other_numbers_of_batches():
    mixture = Mixture([list(range(7)), list(range(7, 14))], [4, 5], seed=3)
    forwards = [order(2, mixture=mixture)[place] for place in range(80)]
    assert [order(2, mixture=mixture)[place] for place in reversed(range(80))] == forwards[::-1]
    assert all(SIZES[a] == SIZES[b] for a, b in zip(forwards[::2], forwards[1::2], strict=True))
    share = sum(item < 7 for item in forwards) / 80
    assert 0.3 < share < 0.6 and set(forwards) == set(range(14))


def test_no_size_with_enough_for_a_batch_is_one_sentence():
    with pytest.raises(UserError, match="a batch of all processes takes 8, and the most common size has 7"):
        order(8)
