"""CaPO's win rates and Pareto fronts: numbers worked out by hand."""

import math
from types import SimpleNamespace

import pytest

from visalign.data.pareto import (
    calibrated_rewards,
    calibration_notes,
    check_distinct,
    check_win_rates,
    fronts,
    pareto_pairs,
    standardised_rewards,
    together,
)
from visalign.errors import UserError


def test_win_rates_by_hand():
    # s(-1) = .268941, s(-3) = .047426: mean .158184; s(1) = .731059, s(-2) = .119203: .425131; s(3), s(2): .916686
    found = calibrated_rewards([0, 1, 3])
    assert found == pytest.approx([0.158184, 0.425131, 0.916686], abs=1e-6)
    assert found[2] - found[0] == pytest.approx(0.758502, abs=1e-6)


def test_win_rates_average_a_half_do_not_see_a_shift_and_keep_the_order():
    scores = [0.3, -2.0, 5.0, 0.3, 1e5, -1e5]
    found = calibrated_rewards(scores)
    assert sum(found) / 6 == pytest.approx(0.5)  # s(a - b) + s(b - a) = 1
    assert calibrated_rewards([score + 7 for score in scores]) == pytest.approx(found, abs=1e-9)
    assert sorted(range(6), key=scores.__getitem__) == sorted(range(6), key=found.__getitem__)
    assert found[0] == found[3] and calibrated_rewards([4.0]) == [0.5] and calibrated_rewards([]) == []
    assert calibrated_rewards([0, 1e9, 2e9]) == pytest.approx([0, 0.5, 1])  # far apart: who wins, and no more


POINTS = {0: (2.0, 2.0), 1: (1.0, 3.0), 2: (0.0, 0.0), 3: (3.0, -1.0), 4: (1.0, 1.0), 5: (0.0, 1.0)}


def test_fronts_by_hand():
    # 0 beats 4, 5 and 2; 1 beats 4, 5 and 2; 3 beats nobody and nobody beats it; 2 is beaten by all but 3
    assert fronts(POINTS) == ([0, 1], [2])
    assert fronts({number: (point[0],) for number, point in POINTS.items()}) == ([3], [2, 5])  # one reward: best, worst
    assert fronts({0: (1.0, 0.0), 1: (0.0, 1.0)}) == ([], []) and fronts({0: (1.0,), 1: (1.0,)}) == ([], [])
    assert fronts({3: (1.0,)}) == ([], [])


def test_fronts_are_those_of_any_rising_scale_of_a_reward():
    bent = {number: (math.exp(a), b**3) for number, (a, b) in POINTS.items()}
    assert fronts(bent) == fronts(POINTS)


def test_a_pair_is_of_the_fronts_and_its_scores_are_the_mean_win_rates():
    seen = set()
    for seed in range(20):
        [(better, worse)] = pareto_pairs(POINTS, seed=seed)
        seen.add((better.number, worse.number))
        for side in (better, worse):
            rates = [calibrated_rewards([point[k] for point in POINTS.values()])[side.number] for k in range(2)]
            assert side.score == pytest.approx(sum(rates) / 2)
    assert seen == {(0, 2), (1, 2)}
    assert pareto_pairs(POINTS, seed=3) == pareto_pairs(dict(reversed(POINTS.items())), seed=3)


def test_top_takes_each_generation_once():
    points = {0: (3.0, 3.0), 1: (2.0, 4.0), 2: (0.0, 1.0), 3: (1.0, 0.0)}
    pairs = pareto_pairs(points, top=9)
    assert {a.number for a, _ in pairs} == {0, 1} and {b.number for _, b in pairs} == {2, 3} and len(pairs) == 2


def test_the_worked_out_gap_is_that_of_the_best_and_the_worst_of_one_reward():
    [(better, worse)] = pareto_pairs({7: (0.0,), 8: (1.0,), 9: (3.0,)})
    assert (better.number, worse.number) == (9, 7) and better.score - worse.score == pytest.approx(0.758502, abs=1e-6)


def test_a_generation_that_one_reward_could_not_score_is_left_out():
    first, second = {"x": {0: 1.0, 1: 2.0}, "y": {2: 5.0}}, {"x": {0: 0.5}}
    assert together([first, second]) == {"x": {0: (1.0, 0.5)}, "y": {}}


def test_standardised_rewards_have_spread_one_within_prompts_whatever_their_scale():
    groups = {"x": {0: (1.0, 0.1), 1: (3.0, 0.3)}, "y": {2: (100.0, 9.1), 3: (102.0, 8.9)}, "z": {4: (1e6, 0.0)}}
    found = standardised_rewards(groups, ["a", "b"])  # both deviations are of half the distance: 1 and .1
    assert found["x"][1][0] - found["x"][0][0] == pytest.approx(2) == found["x"][1][1] - found["x"][0][1]
    assert found["y"][3][1] - found["y"][2][1] == pytest.approx(-2)
    with pytest.raises(UserError, match="b scores all generations of each prompt alike"):
        standardised_rewards({"x": {0: (1.0, 0.5), 1: (2.0, 0.5)}}, ["a", "b"])


def test_what_says_little_is_said():
    enough = {"x": {i: (float(i), -float(i)) for i in range(8)}}
    assert calibration_notes(enough, ["a", "b"], "--standardise") == ()
    few = calibration_notes({"x": {0: (0.0,), 1: (5.0,)}, **{"y": {i: (float(i),) for i in range(8)}}}, ["a"], "k")
    assert len(few) == 1 and "1 of 2 prompts have fewer than 8 scored generations (the fewest 2)" in few[0]
    many = calibration_notes({"x": {i: (float(i),) * 5 for i in range(8)}}, list("abcde"), "k")
    assert len(many) == 1 and "with 5 rewards nearly every generation" in many[0]
    flat = calibration_notes({"x": {i: (i / 1000,) for i in range(8)}}, ["clip"], "data.feedback.standardise")
    assert "by clip are 0.5 +- 0.000" in flat[0] and "data.feedback.standardise" in flat[0]


@pytest.mark.parametrize("chosen, rejected, said", [
    (None, 0.2, "has no chosen_reward"), (0.5, None, "has no chosen_reward"),
    (1.5, 0.2, "a reward of 1.5, which is no win rate"), (0.5, -0.2, "a reward of -0.2")])
def test_what_are_no_win_rates_is_refused_with_the_way_to_them(chosen, rejected, said):
    pair = SimpleNamespace(where="pairs.jsonl row 1", chosen_reward=chosen, rejected_reward=rejected)
    with pytest.raises(UserError, match="pairs.jsonl row 1") as failed:
        check_win_rates(pair)
    assert said in str(failed.value) and "--strategy pareto" in str(failed.value)
    check_win_rates(SimpleNamespace(where="w", chosen_reward=1.0, rejected_reward=0.0))


def test_a_reward_that_is_given_twice_is_refused():
    with pytest.raises(UserError, match="a is given twice"):
        check_distinct([SimpleNamespace(name="a"), SimpleNamespace(name="b"), SimpleNamespace(name="a")])
