"""Distances of rewards: by hand, what leaves them as they are, and what they say of choosing by the wrong reward."""

import numpy as np
import pytest

from visalign.evaluators.reward_distance import ConstantReward, reward_distances
from visalign.evaluators.statistics import TooFew


def distance(first, second, prompts=None):
    return reward_distances({"a": first, "b": second}, prompts or ["p"] * len(first)).of("a", "b").value


@pytest.mark.parametrize("other, expected", [
    ((5, 7, 9), 0.0),  # 2 r + 5
    ((0, -1, -2), 1.0),  # the opposite
    ((0, 2, 1), 0.5),  # centred (-1, 0, 1) and (-1, 1, 0): rho = 1/2, sqrt((1 - 1/2) / 2) = 1/2
    ((1, 0, 1), 0.5 ** 0.5)])  # (-1, 0, 1) . (1/3, -2/3, 1/3) = 0: unrelated
def test_by_hand(other, expected):
    assert distance((0, 1, 2), other) == pytest.approx(expected, abs=1e-12)


def random_scores(rewards=4, prompts=30, samples=5, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(prompts * samples, 1))
    return common + rng.normal(size=(prompts * samples, rewards)), np.repeat(np.arange(prompts), samples)


def test_it_is_the_pooled_correlation_within_prompts():
    values, prompts = random_scores()
    means = np.stack([values[prompts == p].mean(0) for p in range(30)])
    rho = np.corrcoef((values - means[prompts]).T)
    found = reward_distances(dict(zip("abcd", values.T, strict=True)), prompts)
    for i, first in enumerate("abcd"):
        for j, second in enumerate("abcd"):
            assert found.of(first, second).value == pytest.approx(np.sqrt((1 - rho[i, j]) / 2), abs=1e-7)


def test_a_constant_per_prompt_and_a_positive_factor_change_nothing():
    values, prompts = random_scores(2)
    offsets = np.random.default_rng(1).normal(size=30) * 10
    moved = 3.5 * values[:, 1] + offsets[prompts]
    assert distance(values[:, 1], moved, list(prompts)) == pytest.approx(0, abs=1e-12)
    assert distance(values[:, 1], -moved, list(prompts)) == pytest.approx(1, abs=1e-12)
    assert distance(values[:, 0], moved, list(prompts)) == pytest.approx(
        distance(values[:, 0], values[:, 1], list(prompts)), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_symmetric_and_obey_the_triangle(seed):
    values, prompts = random_scores(4, seed=seed)
    found = reward_distances(dict(zip("abcd", values.T, strict=True)), prompts)
    backwards = reward_distances(dict(zip("dcba", values.T[::-1], strict=True)), prompts)
    for a in "abcd":
        assert found.of(a, a) == (0, 0, 0)
        for b in "abcd":
            assert found.of(a, b) == found.of(b, a)
            assert found.of(a, b).value == pytest.approx(backwards.of(a, b).value, abs=1e-12)
            for c in "abcd":
                assert found.of(a, c).value <= found.of(a, b).value + found.of(b, c).value + 1e-12


def test_the_interval_is_over_prompts_and_holds_the_value():
    """Ten times the prompts: an interval about sqrt(10) narrower. One prompt alone has none."""
    widths = []
    for prompts in (20, 200):
        values, groups = random_scores(2, prompts)
        found = reward_distances({"a": values[:, 0], "b": values[:, 1]}, groups).of("a", "b")
        assert 0 < found.low < found.value < found.high < 1
        widths.append(found.high - found.low)
    assert 2 < widths[0] / widths[1] < 5
    alone = reward_distances({"a": [0, 1, 2], "b": [0, 2, 1]}, ["p"] * 3).of("a", "b")
    assert alone.value == pytest.approx(0.5) and alone.low == float("-inf") and alone.high == float("inf")


def test_the_tree_joins_the_nearest_first():
    """a and its likeness at 0, then c; the average of the distances from a and b is where c joins."""
    a, c = np.array([0., 1, 2, 0, 3, 1]), np.array([0., 2, 1, 1, 3, 0])
    found = reward_distances({"a": a, "c": c, "b": 2 * a + 1}, list("pppqqq"))
    assert set(found.merges[0, :2]) == {0, 2} and found.merges[0, 2] == pytest.approx(0, abs=1e-12)
    assert found.merges[1, 2] == pytest.approx((found.of("a", "c").value + found.of("b", "c").value) / 2)


def test_all_distances_are_of_the_samples_that_every_reward_scored():
    """The third of p has no score of b, and q has one sample: a and c are compared without them too."""
    nan = float("nan")
    found = reward_distances({"a": [0, 1, 9, 4, 1, 2], "b": [0, 1, nan, 4, 2, 1], "c": [3, 4, -9, 0, 1, 2]},
                            ["p", "p", "p", "q", "r", "r"])
    assert (found.samples, found.prompts, found.left_out) == (4, 2, 2)
    assert found.of("a", "c").value == pytest.approx(0, abs=1e-12)
    assert found.of("a", "b").value == pytest.approx(0.5 ** 0.5)  # (-1, 1, -1, 1) / 2 and (-1, 1, 1, -1) / 2


def test_what_has_no_distance_is_named():
    with pytest.raises(ConstantReward, match="flat scores all samples of each prompt alike") as caught:
        reward_distances({"a": [0, 1, 2, 4], "flat": [0.1, 0.1, 0.7, 0.7]}, list("ppqq"))
    assert caught.value.name == "flat"
    with pytest.raises(ConstantReward):  # the mean of three equal floats may round away from them
        reward_distances({"a": [0, 1, 2], "flat": [0.1, 0.1, 0.1]}, list("ppp"))
    with pytest.raises(TooFew, match="at least 2 rewards"):
        reward_distances({"a": [0, 1]}, list("pp"))
    with pytest.raises(TooFew, match="at least 2 samples of one prompt"):
        reward_distances({"a": [0, 1], "b": [1, 0]}, list("pq"))


def test_the_nearer_the_reward_the_less_best_of_n_loses():
    """Best of 8 by a reward at rising distance, in the gold's own scores: each loses more of the gold's gain."""
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(400, 8))
    prompts, far, lost = np.repeat(np.arange(400), 8), [], []
    for noise in (0.0, 0.3, 1.0, 3.0):
        reward = gold + noise * rng.normal(size=gold.shape)
        found = reward_distances({"gold": gold.ravel(), "reward": reward.ravel()}, prompts)
        far.append(found.of("gold", "reward").value)
        lost.append((gold.max(1) - gold[np.arange(400), reward.argmax(1)]).mean())
    assert far == sorted(far) and lost == sorted(lost) and lost[0] == 0 and lost[-1] > 0.8
