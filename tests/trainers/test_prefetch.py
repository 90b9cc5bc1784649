"""What is read ahead is what would have been read, whatever takes how long."""

import random
import time

import pytest

from visalign.trainers.prefetch import Prefetch


def slow(index: int) -> int:
    time.sleep(random.uniform(0, 0.005))
    return index * index


def test_units_come_in_order_are_planned_by_the_caller_and_end_with_the_last():
    planned = []

    def plan(index):
        planned.append(index)
        return lambda: slow(index)

    with Prefetch(plan, last=12, workers=3) as made:
        assert [made[index] for index in range(5, 12)] == [index * index for index in range(5, 12)]
        assert made[6] == 36, "asked for again, it is read again"
    assert planned[:8] == [*range(5, 12), 6] and max(planned) == 11 and made.waited > 0


def test_reading_beside_the_work_takes_no_time_of_it():
    with Prefetch(lambda index: lambda: time.sleep(0.05), last=10, workers=2) as made:
        for index in range(10):
            made[index]
            if not index:
                made.waited = 0  # the first is waited for
            time.sleep(0.05)
    assert made.waited < 0.05, "450 ms are read"


def test_what_fails_in_a_thread_fails_where_it_is_used():
    def fail():
        raise KeyError("gone")

    with Prefetch(lambda index: fail, last=2, workers=1) as made, pytest.raises(KeyError, match="gone"):
        made[0]
