"""Suspicion from the groups that a run learns from: what is compared with what, and how often it errs."""

import numpy as np
import pytest

from visalign.evaluators.watch import FIRST, WatchedEpoch, suspicion_of


def epochs(*levels: float, groups: int = 8, noisy: tuple[int, ...] = (0, 1), prompts=None) -> list[WatchedEpoch]:
    """One epoch a level, all of its groups with that diversity; prompts are new every time unless given."""
    return [WatchedEpoch(i + 1, noisy, tuple(prompts or (f"{noisy} {i} {g}" for g in range(groups))),
                         (level,) * groups) for i, level in enumerate(levels)]


def test_nothing_is_said_while_there_are_too_few_groups():
    first = FIRST // 8
    assert suspicion_of(epochs(*[1.0] * first), 0.15) is None
    for more, groups in ((1, 8), (2, 16), (3, 16), (4, 32), (9, 32)):
        found = suspicion_of(epochs(*[1.0] * (first + more)), 0.15)
        assert (found.change, found.newest, found.first) == (0, groups, 32)
        assert not found.paired and not found.suspicious
    assert suspicion_of(epochs(*[0.0] * 9), 0.15) is None  # nothing to lose


@pytest.mark.parametrize("level, suspicious", [(0.93, False), (0.92, True), (1.2, False)])
def test_half_the_budget_is_the_line(level, suspicious):
    """Budget 0.15: 0.925 of what there was."""
    found = suspicion_of(epochs(1, 1, 1, 1, level, level), 0.15)
    assert found.suspicious == suspicious and found.change == pytest.approx(level - 1)
    assert found.words == (f"diversity within the {8 if suspicious else 16} newest groups "
                           f"{'rose' if level > 1 else 'fell'} by {100 * abs(level - 1):.0f} % "
                           "against groups of the first 32")


def test_prompts_that_come_again_are_compared_with_themselves():
    """Prompts that differ widely, so that only pairs show a loss of a fifth."""
    rng = np.random.default_rng(0)
    levels = np.exp(rng.normal(size=32))
    names = tuple(map(str, range(32)))
    first = WatchedEpoch(1, (0,), names, tuple(levels))
    later = WatchedEpoch(2, (0,), names[:16], tuple(0.8 * levels[:16]))
    paired = suspicion_of([first, later], 0.15)
    assert paired.paired and paired.suspicious and paired.change == pytest.approx(-0.2)
    assert "against groups of the same prompts" in paired.words
    strangers = WatchedEpoch(2, (0,), tuple(f"other {i}" for i in range(16)), later.diversity)
    alone = suspicion_of([first, strangers], 0.15)
    assert not alone.paired and not alone.suspicious


def test_a_sudden_fall_is_seen_in_few_groups_and_a_slow_one_in_many():
    """Groups that are 0.15 more or less than their epoch's level; a level of 0.83 is clear of 0.925 in 32 of them."""
    def varied(levels) -> list[WatchedEpoch]:
        return [WatchedEpoch(e, (0,), tuple(f"{e} {g}" for g in range(8)), (level - 0.15, level + 0.15) * 4)
                for e, level in enumerate(levels)]

    sudden = suspicion_of(varied([1.0] * 6 + [0.5]), 0.15)
    assert sudden.suspicious and sudden.newest == 8
    slow = suspicion_of(varied([1.0] * 4 + [0.83] * 4), 0.15)
    assert slow.suspicious and slow.newest == 32


def test_noise_at_other_steps_is_not_compared():
    moved = epochs(1, 1, 1, 1, noisy=(0, 1)) + epochs(*[0.3] * 4, noisy=(2, 3))
    assert suspicion_of(moved, 0.15) is None  # the steps changed, perhaps nothing else
    fallen = suspicion_of(moved + epochs(0.1, 0.1, noisy=(2, 3)), 0.15)
    assert fallen.suspicious and fallen.change == pytest.approx(-2 / 3)


def test_how_often_it_is_suspicious_without_and_with_a_loss():
    """Groups that vary by a quarter, 20 more epochs: seldom where nothing is lost, nearly always where a third is."""
    rng = np.random.default_rng(1)

    def ever(drift: float) -> float:
        found = 0
        for _ in range(60):
            run = [WatchedEpoch(e + 1, (0,), tuple(f"{e} {g}" for g in range(8)),
                                tuple(rng.normal(1 - drift * max(0, e - 4) / 20, 0.25, 8))) for e in range(25)]
            found += any(s.suspicious for s in (suspicion_of(run[:e], 0.15) for e in range(6, 26)) if s)
        return found / 60

    assert ever(0.0) < 0.2 and ever(0.4) > 0.9
