"""Suspicion from the groups that a run learns from: what is compared with what, and how often it errs."""

from dataclasses import replace

import numpy as np
import pytest
import scipy

from visalign.evaluators.style import STYLE
from visalign.evaluators.verdict import VerdictLimits
from visalign.evaluators.watch import FIRST, WatchedEpoch, _Sides, suspicion_of

LIMITS = VerdictLimits(budget=0.15, drift=2.0, tolerance=0.25)


def epochs(*levels: float, groups: int = 8, noisy: tuple[int, ...] = (0, 1), prompts=None) -> list[WatchedEpoch]:
    """One epoch a level, all of its groups with that diversity; prompts are new every time unless given."""
    return [WatchedEpoch(i + 1, noisy, tuple(prompts or (f"{noisy} {i} {g}" for g in range(groups))),
                         (level,) * groups) for i, level in enumerate(levels)]


def test_nothing_is_said_while_there_are_too_few_groups():
    first = FIRST // 8
    assert suspicion_of(epochs(*[1.0] * first), LIMITS) is None
    for more, groups in ((1, 8), (2, 16), (3, 16), (4, 32), (9, 32)):
        found = suspicion_of(epochs(*[1.0] * (first + more)), LIMITS)
        assert (found.change, found.newest, found.first) == (0, groups, 32)
        assert not found.paired and not found.suspicious
    assert suspicion_of(epochs(*[0.0] * 9), LIMITS) is None  # nothing to lose


@pytest.mark.parametrize("level, suspicious", [(0.93, False), (0.92, True), (1.2, False)])
def test_half_the_budget_is_the_line(level, suspicious):
    """Budget 0.15: 0.925 of what there was."""
    found = suspicion_of(epochs(1, 1, 1, 1, level, level), LIMITS)
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
    paired = suspicion_of([first, later], LIMITS)
    assert paired.paired and paired.suspicious and paired.change == pytest.approx(-0.2)
    assert "against groups of the same prompts" in paired.words
    strangers = WatchedEpoch(2, (0,), tuple(f"other {i}" for i in range(16)), later.diversity)
    alone = suspicion_of([first, strangers], LIMITS)
    assert not alone.paired and not alone.suspicious


def test_a_sudden_fall_is_seen_in_few_groups_and_a_slow_one_in_many():
    """Groups that are 0.15 more or less than their epoch's level; a level of 0.83 is clear of 0.925 in 32 of them."""
    def varied(levels) -> list[WatchedEpoch]:
        return [WatchedEpoch(e, (0,), tuple(f"{e} {g}" for g in range(8)), (level - 0.15, level + 0.15) * 4)
                for e, level in enumerate(levels)]

    sudden = suspicion_of(varied([1.0] * 6 + [0.5]), LIMITS)
    assert sudden.suspicious and sudden.newest == 8
    slow = suspicion_of(varied([1.0] * 4 + [0.83] * 4), LIMITS)
    assert slow.suspicious and slow.newest == 32


def test_noise_at_other_steps_is_not_compared():
    moved = epochs(1, 1, 1, 1, noisy=(0, 1)) + epochs(*[0.3] * 4, noisy=(2, 3))
    assert suspicion_of(moved, LIMITS) is None  # the steps changed, perhaps nothing else
    fewer = [replace(each, members=2, epoch=each.epoch + 9) for each in epochs(*[0.3] * 4)]
    assert suspicion_of(epochs(1, 1, 1, 1, 1) + fewer, LIMITS) is None  # so did what is measured
    fallen = suspicion_of(moved + epochs(0.1, 0.1, noisy=(2, 3)), LIMITS)
    assert fallen.suspicious and fallen.change == pytest.approx(-2 / 3)


def test_how_often_it_is_suspicious_without_and_with_a_loss():
    """Groups that vary by a quarter, 20 more epochs: seldom where nothing is lost, nearly always where a third is."""
    rng = np.random.default_rng(1)

    def ever(drift: float) -> float:
        found = 0
        for _ in range(60):
            run = [WatchedEpoch(e + 1, (0,), tuple(f"{e} {g}" for g in range(8)),
                                tuple(rng.normal(1 - drift * max(0, e - 4) / 20, 0.25, 8))) for e in range(25)]
            found += any(s.suspicious for s in (suspicion_of(run[:e], LIMITS) for e in range(6, 26)) if s)
        return found / 60

    assert ever(0.0) < 0.2 and ever(0.4) > 0.9


def levelled(rng, epochs: int, groups: int, names, moves=lambda name, epoch: 0.0, repeats: bool = False, within=0.6):
    """A run whose levels move as told, in standard deviations of single samples (1): prompts differ by 0.8 of it, and
    so do means of groups by `within` / 2 around that. Diversity is as it was."""
    prompts = [f"p{g}" for g in range(groups)] if repeats else None
    own = {name: rng.normal(0, 0.8, groups) for name in names}
    found = []
    for e in range(epochs):
        base = {name: own[name] if repeats else rng.normal(0, 0.8, groups) for name in names}
        levels = {name: tuple(base[name] + moves(name, e) + rng.normal(0, within / 2, groups)) for name in names}
        found.append(WatchedEpoch(e + 1, (0,), tuple(prompts or (f"{e} {g}" for g in range(groups))),
                                  (1.0,) * groups, levels, dict.fromkeys(names, 1.0)))
    return found


STYLES = tuple(f"style/{name}" for name in STYLE)


def first_alarm(run: list[WatchedEpoch]) -> tuple[int, str] | None:
    """After which epoch something is suspicious, and what."""
    for e in range(5, len(run) + 1):  # the first four are what is compared with
        found = suspicion_of(run[:e], LIMITS, len(run))
        if found and found.suspicious:
            return e, found.level
    return None


@pytest.mark.parametrize("repeats", [False, True])
def test_styles_that_move_by_half_of_what_is_allowed_make_the_guard_look_in_one_run_of_twenty_at_most(repeats):
    """The most that counts as harmless, 1 standard deviation, of all nine statistics once the start is known."""
    rng, runs = np.random.default_rng(0), 100
    alarms = sum(first_alarm(levelled(rng, 12, 8, STYLES, lambda name, e: float(e > 3), repeats)) is not None
                 for _ in range(runs))
    print(alarms)
    assert alarms / runs <= 0.05


@pytest.mark.parametrize("to, repeats, within", [(2.0, True, 3), (-2.0, True, 3), (3.0, False, 2)])
def test_a_style_that_drifts_by_what_is_allowed_is_seen_and_named(to, repeats, within):
    """By all of it where prompts come again, within three epochs; by half more where others come, within two.
    """
    rng, found = np.random.default_rng(1), []
    for _ in range(20):
        run = levelled(rng, 12, 8, STYLES, lambda name, e: to * (e > 6) * (name == "style/sharpness"), repeats)
        found.append(first_alarm(run))
    assert all(each and each[1] == "style/sharpness" and each[0] <= 7 + within for each in found)
    last = suspicion_of(run, LIMITS, 12)
    assert last.words.startswith(f"sharpness of the {last.newest} newest groups {'rose' if to > 0 else 'fell'} by ")
    assert last.words.endswith(f"against groups of {'the same prompts' if repeats else 'the first 32'}")


def test_a_statistic_that_never_varied_drifts_by_its_scale_alone():
    """Black images all along have no spread: 1 % of the scale counts as one standard deviation."""
    run = [WatchedEpoch(e + 1, (0,), tuple(f"{e} {g}" for g in range(32)), (1.0,) * 32,
                        {"style/luminance": (level,) * 32}, {"style/luminance": 0.0})
           for e, level in enumerate((0.0, 0.009, 0.03))]
    assert not suspicion_of(run[:2], LIMITS).suspicious
    found = suspicion_of(run, LIMITS)
    assert found.suspicious and found.change == pytest.approx(3.0)


def test_a_held_out_reward_that_falls_is_suspicious_only_while_the_optimised_one_rises():
    rng, names = np.random.default_rng(2), ("optimised", "reward/held")
    for rise, fall, expected in ((1.0, -1.0, True), (0.0, -1.0, False), (1.0, 0.0, False), (-1.0, -1.0, False)):
        run = levelled(rng, 16, 8, names, lambda name, e, r=rise, f=fall: (e > 5) * (r if name == names[0] else f))
        found = first_alarm(run)
        assert (found is not None and found[1] == "reward/held") == expected
        if expected:
            assert suspicion_of(run, LIMITS, 16).words.endswith("while the optimised reward rose")


def test_levels_that_are_known_of_few_groups_wait_for_as_many():
    """A reward that is asked of one group an epoch: 32 epochs to compare with, and 8 more."""
    def run(epochs):
        return [WatchedEpoch(e + 1, (0,), tuple(f"{e} {g}" for g in range(8)), (1.0,) * 8,
                             {"optimised": (float(e > 31),) * 8, "reward/held": (-float(e > 31), *[np.nan] * 7)},
                             {"optimised": 1.0, "reward/held": 1.0}) for e in range(epochs)]

    assert not suspicion_of(run(39), LIMITS).suspicious and suspicion_of(run(40), LIMITS).level == "reward/held"


def test_the_chances_are_scipy_s():
    rng = np.random.default_rng(3)
    a, b = rng.normal(1, 1, 32), rng.normal(0.7, 2, 9)
    assert _Sides(a, b, paired=False).below(0.1) == pytest.approx(
        scipy.stats.ttest_ind(b, a - 0.1, equal_var=False, alternative="less").pvalue)
    assert _Sides(a[:9], b, paired=True).above(0.1) == pytest.approx(
        scipy.stats.ttest_rel(b, a[:9] + 0.1, alternative="greater").pvalue)


def test_held_out_rewards_at_the_edge_are_suspected_in_one_run_of_twenty_at_most():
    """Two of them, which fall by just half of what is tolerated, while the optimised one rises for all to see."""
    rng, runs, names = np.random.default_rng(4), 100, ("optimised", "reward/a", "reward/b")
    alarms = sum(first_alarm(levelled(rng, 12, 8, names, lambda name, e: (e > 3) * (
        2.0 if name == "optimised" else -LIMITS.tolerance / 2), repeats=True)) is not None for _ in range(runs))
    assert alarms / runs <= 0.05
