"""The next pair: what a vote would tell, by hand; better than chance in a simulation; and no model forgotten."""

import itertools

import numpy as np
import pytest
import scipy

from visalign.evaluators.next_pair import LEAST_SHARE, information, next_pairs, posterior


def test_before_any_vote_all_pairs_tell_as_much_and_it_is_that_of_the_prior():
    # covariance 4 I: the gap of two has variance 8, a vote between equals the information 1/4: log(1 + 8/4) / 2
    gain = information(np.zeros((3, 3)))
    assert gain[0, 1] == gain[1, 2] == pytest.approx(np.log(3) / 2) and gain[0, 0] == 0


def test_the_mode_of_two_models_solves_its_equation():
    # 3 wins of 4: s_0 = -s_1 = s with s / 4 = 3 - 4 expit(2 s)
    s, cov = posterior(np.array([[0, 3.0], [1, 0]]))
    assert s[0] == pytest.approx(-s[1]) and s[0] / 4 == pytest.approx(3 - 4 * scipy.special.expit(2 * s[0]), abs=1e-6)
    known = 4 * scipy.special.expit(2 * s[0]) * scipy.special.expit(-2 * s[0])
    assert np.linalg.inv(cov) == pytest.approx(np.array([[known + 0.25, -known], [-known, known + 0.25]]))


def test_the_even_match_tells_more_than_the_foregone_one():
    wins = np.array([[0, 5.0, 9], [5, 0, 9], [1, 1, 0]])
    assert next_pairs(wins, np.ones((3, 3), bool))[0] == (0, 1)
    assert (0, 1) not in next_pairs(wins, np.array([[0, 0, 1], [0, 0, 1], [1, 1, 0]], bool))


def test_a_model_that_fell_behind_comes_first():
    wins = np.zeros((4, 4))
    wins[0, 1] = wins[1, 0] = wins[0, 2] = wins[2, 1] = 20
    assert all(3 in pair for pair in next_pairs(wins, np.ones((4, 4), bool))[:3])


def play(strengths, votes, choose, rng):
    """Error of the strengths (log-odds), share of pairs in wrong order, log-determinant of the covariance, and games by
    model, after votes on the pairs that `choose` asks for."""
    n, wins = len(strengths), np.zeros((len(strengths), len(strengths)))
    for _ in range(votes):
        i, j = choose(wins)
        first = rng.random() < scipy.special.expit(strengths[i] - strengths[j])
        wins[(i, j) if first else (j, i)] += 1
    found, cov = posterior(wins)
    wrong = np.sign(np.subtract.outer(found, found)) != np.sign(np.subtract.outer(strengths, strengths))
    return (np.sqrt(np.mean((found - found.mean() - strengths + strengths.mean())**2)), wrong.sum() / (n * (n - 1)),
            np.linalg.slogdet(cov)[1], (wins + wins.T).sum(1))


def test_informative_pairs_find_the_order_sooner_than_random_ones_and_no_model_is_left_behind():
    strengths = np.array([-4, -3, -2.6, -0.2, 0.1, 3, 3.3, 3.4])
    pairs, allowed = list(itertools.combinations(range(8), 2)), np.ones((8, 8), bool)
    found = {}
    for name in ("information", "random"):
        runs = []
        for seed in range(12):
            rng = np.random.default_rng(seed)
            rule = {"information": lambda wins: next_pairs(wins, allowed)[0],
                    "random": lambda wins, rng=rng: pairs[rng.integers(len(pairs))]}[name]
            runs.append(play(strengths, 120, rule, rng))
        error, wrong, spread, games = (np.array(each) for each in zip(*runs, strict=True))
        found[name] = wrong.mean(), spread.mean()
        print(f"{name}: {100 * wrong.mean():.1f} % of pairs in wrong order, log det of the covariance "
              f"{spread.mean():.2f}, error {error.mean():.3f}")
        if name == "information":
            assert (games.min(1) >= LEAST_SHARE * games.mean(1) - 1).all()
    assert found["information"][0] < 0.7 * found["random"][0] and found["information"][1] < found["random"][1] - 1
