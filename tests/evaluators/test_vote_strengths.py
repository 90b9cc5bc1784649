"""Votes with covariates: hand numbers, identities, planted effects, and what cannot be fitted."""

from dataclasses import replace

import numpy as np
import pytest
import scipy

from visalign.evaluators.ranking import ELO, NoRanking, elo, elo_of_votes
from visalign.evaluators.vote_strengths import VoteTable, fit_votes, maximum_likelihood


def table(first, second, outcome, voters=None, covariates=None, models=("a", "b"), names=()):
    count = len(outcome)
    return VoteTable(list(models), np.array(first), np.array(second), np.array(outcome, float),
                     np.array(["ann"] * count if voters is None else voters),
                     np.zeros((count, 0)) if covariates is None else np.asarray(covariates, float), tuple(names))


def two(won, lost, tied, voters=None):
    """Two models, the first of which wins, loses and ties so often."""
    outcome = [1] * won + [-1] * lost + [0] * tied
    return table([0] * len(outcome), [1] * len(outcome), outcome, voters)


def simulated(rng, strengths, effects, nu, votes=3000, voters=40, tied_to=None, covariates=None):
    """Votes of independent voters by the model itself. tied_to: the first covariate is a model's own look and noise."""
    n = len(strengths)
    first, second = np.array([rng.choice(n, 2, replace=False) for _ in range(votes)]).T
    x = rng.normal(size=(votes, len(effects)))
    if tied_to is not None:
        x[:, 0] += np.asarray(tied_to)[first] - np.asarray(tied_to)[second]
    eta = np.asarray(strengths)[first] - np.asarray(strengths)[second] + x @ effects
    chance = scipy.special.softmax(np.stack([eta / 2, -eta / 2, np.full(votes, np.log(nu) if nu else -np.inf)], 1), 1)
    outcome = np.array([1, -1, 0])[(rng.random(votes)[:, None] > chance.cumsum(1)).sum(1)]
    return table(first, second, outcome, rng.integers(0, voters, votes), x, [f"m{i}" for i in range(n)],
                 [f"x{i}" for i in range(len(effects))])


def test_two_models_by_hand():
    # 6 won, 2 lost, 4 tied: odds 3, nu = 4 / sqrt(6 * 2), variance of the log-odds 1/6 + 1/2
    fit = fit_votes(two(6, 2, 4))
    assert fit.strengths == pytest.approx([np.log(3) / 2, -np.log(3) / 2])
    assert fit.tie(clustered=False).value == pytest.approx(4 / 12**0.5)
    assert np.array([1, -1]) @ fit.fit.naive[:2, :2] @ [1, -1] == pytest.approx(2 / 3)
    assert fit.fit.chances[0] == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    half = 1.959964 * (2 / 3)**0.5 / 2 * ELO
    assert fit.elo(0, clustered=False) == pytest.approx((1000 + ELO * np.log(3) / 2, 1000 + ELO * np.log(3) / 2 - half,
                                                        1000 + ELO * np.log(3) / 2 + half), rel=1e-5)


def test_without_covariates_and_ties_it_is_bradley_and_terry_s_ranking():
    votes = simulated(np.random.default_rng(0), [0.7, 0.1, -0.8], [], 0.0, 300)
    fit, known = fit_votes(votes), elo(votes.wins[None], votes.models)
    assert [fit.elo(i).value for i in range(3)] == pytest.approx([known[name].value for name in votes.models], abs=1e-4)
    assert fit.tie() is None


def test_planted_strengths_style_and_ties_are_found_where_the_plain_fit_is_biased():
    strengths, look = np.array([0.6, 0.2, -0.2, -0.6]), [-1.0, 0.0, 0.0, 1.0]  # the weakest model is the brightest
    votes = simulated(np.random.default_rng(1), strengths, [0.8, 0.3], 0.7, tied_to=look)
    fit, plain = fit_votes(votes), fit_votes(votes.plain())
    print("planted", strengths, "controlled", fit.strengths.round(2), "plain", plain.strengths.round(2),
          "effects", fit.fit.b[4:6].round(2), "nu", fit.tie())
    for found, true in [*((fit.elo(i), 1000 + ELO * s) for i, s in enumerate(strengths)), (fit.effect(0), 0.8),
                        (fit.effect(1), 0.3), (fit.tie(), 0.7)]:
        assert found.low < true < found.high
    assert np.abs(fit.strengths - strengths).max() < 0.15
    assert plain.elo(0).high < 1000 + ELO * 0.6 and plain.elo(3).low > 1000 - ELO * 0.6


def test_a_voter_who_repeats_himself_is_one_voter():
    """Every voter gives each vote five times: the clustered interval is wider by about sqrt(5), the naive one is
    not."""
    rng = np.random.default_rng(2)
    single = simulated(rng, [0.4, -0.4], [], 0.0, 200, voters=10**9)
    five = np.repeat(np.arange(200), 5)
    votes = table(single.first[five], single.second[five], single.outcome[five], single.voters[five])
    fit = fit_votes(votes)
    wide, narrow = (np.diff(fit.elo(0, clustered)[1:])[0] for clustered in (True, False))
    assert wide / narrow == pytest.approx(5**0.5, rel=0.1)


def test_clustered_variance_by_hand():
    # two voters, no ties: ann 5 won of 6, bob 1 of 2; p = 3/4, information 8 p (1 - p) = 3/2, scores 1/2 and -1/2:
    # 2 / 1 * (1/4 + 1/4) / (3/2)^2 = 4/9
    votes = table([0] * 8, [1] * 8, [1] * 5 + [-1, 1, -1], ["ann"] * 6 + ["bob"] * 2)
    fit = fit_votes(votes)
    assert np.array([1, -1]) @ fit.fit.clustered[:2, :2] @ [1, -1] == pytest.approx(4 / 9)
    wide = fit.elo(0)
    assert (wide.high - wide.value) / ELO == pytest.approx(scipy.stats.t.ppf(0.975, 1) * (4 / 9)**0.5 / 2)


def test_clustered_intervals_hold_as_often_as_they_say():
    """Voters of differing taste: 95 % intervals by voter cover the mean voter's gap, those that take votes for
    independent do not."""
    rng, covered = np.random.default_rng(3), {True: 0, False: 0}
    for _ in range(200):
        taste = rng.normal(0.0, 1.0, 25)
        voters = np.repeat(np.arange(25), 12)
        outcome = np.where(rng.random(300) < scipy.special.expit(taste[voters]), 1, -1)
        fit = fit_votes(table([0] * 300, [1] * 300, outcome, voters))
        for clustered in covered:
            low, high = fit.elo(0, clustered)[1:]
            covered[clustered] += low < 1000 < high
    print("covered", covered)
    assert 0.90 <= covered[True] / 200 <= 0.99 and covered[False] / 200 < 0.8


def crossed(cells) -> VoteTable:
    """Two models; {(voter, prompt): (won, lost)}."""
    rows = [(voter, prompt, outcome) for (voter, prompt), (won, lost) in cells.items()
            for outcome in [1] * won + [-1] * lost]
    voters, prompts, outcome = zip(*rows, strict=True)
    return replace(table([0] * len(rows), [1] * len(rows), outcome, voters), prompts=np.array(prompts))


GAP = np.array([1, -1])


def gap_variance(fit, cov) -> float:
    return float(GAP @ cov[:2, :2] @ GAP)


def test_two_way_clustered_variance_by_hand():
    """6 won of 8: p = 3/4, information 3/2, scores 1/4 of a win and -3/4 of a loss.

    Cells of (voter, prompt): 3/4, 1/4, 1/4, -5/4. By voter 2 (1 + 1) = 4, by prompt as much, by both
    4/3 (9 + 1 + 1 + 25)/16 = 3: 4 + 4 - 3 = 5, over (3/2)^2.
    """
    fit = fit_votes(crossed({("ann", "x"): (3, 0), ("ann", "y"): (1, 0), ("bob", "x"): (1, 0), ("bob", "y"): (1, 2)}))
    for cov, expected in ((fit.fit.clustered, 4), (fit.fit.by_prompt, 4), (fit.fit.by_both, 3)):
        assert gap_variance(fit, cov) == pytest.approx(expected / 2.25)
    wide = fit.elo(0)
    assert (wide.high - wide.value) / ELO == pytest.approx(scipy.stats.t.ppf(0.975, 1) * (5 / 2.25)**0.5 / 2)


def test_the_variance_never_falls_below_one_way_s():
    """Cells 3/4, -1/4, 1/4, -3/4: by voter 1, by prompt 4, by both 5/3, and 1 + 4 - 5/3 is less than 4."""
    fit = fit_votes(crossed({("ann", "x"): (3, 0), ("ann", "y"): (2, 1), ("bob", "x"): (1, 0), ("bob", "y"): (0, 1)}))
    assert gap_variance(fit, fit.fit.by_both) == pytest.approx(5 / 3 / 2.25)
    wide = fit.elo(0)
    assert (wide.high - wide.value) / ELO == pytest.approx(scipy.stats.t.ppf(0.975, 1) * (4 / 2.25)**0.5 / 2)


def test_prompts_of_one_vote_each_change_nothing_but_what_is_known():
    """By prompt is then by both, which leaves that by voter."""
    single = simulated(np.random.default_rng(2), [0.4, -0.4], [], 0.0, 200, voters=10**9)
    five = np.repeat(np.arange(200), 5)
    votes = table(single.first[five], single.second[five], single.outcome[five], single.voters[five])
    alone, both = fit_votes(votes), fit_votes(replace(votes, prompts=np.arange(1000)))
    assert both.fit.by_prompt == pytest.approx(both.fit.by_both) and both.fit.prompts == 1000
    assert tuple(both.elo(0)) == pytest.approx(tuple(alone.elo(0)))
    one = fit_votes(replace(votes, prompts=np.zeros(1000, int)))
    assert np.isinf(one.elo(0).high) and np.isfinite(one.elo(0, clustered=False).high)


def test_intervals_by_voter_and_prompt_hold_where_prompts_have_luck_of_their_own():
    """40 voters on 20 prompts each, whose media differ in luck: 95 % intervals by voter alone say far too much. The
    pigeonhole bootstrap of the plain ranking holds as well."""
    rng, covered, studies = np.random.default_rng(6), {"both": 0, "voter": 0, "pigeonhole": 0}, 200
    voters, prompts = (each.flatten() for each in np.meshgrid(np.arange(40), np.arange(20)))
    for study in range(studies):
        luck, taste = rng.normal(0, 1.0, 20), rng.normal(0, 0.5, 40)
        won = rng.random(800) < scipy.special.expit(luck[prompts] + taste[voters])
        votes = table([0] * 800, [1] * 800, np.where(won, 1, -1), voters)
        ladders = {"voter": fit_votes(votes).elo(0), "both": fit_votes(replace(votes, prompts=prompts)).elo(0)}
        if study < studies // 2:  # it takes longer
            ladders["pigeonhole"] = elo_of_votes(np.tile([0, 1], (800, 1)), won.astype(float), prompts, voters,
                                                 votes.models, seed=study, resamples=200)["a"]
        for name, found in ladders.items():
            covered[name] += found.low < 1000 < found.high
    print("covered", covered)
    assert covered["both"] >= 0.93 * studies and covered["voter"] < 0.7 * studies
    assert covered["pigeonhole"] >= 0.93 * studies / 2


def test_one_voter_has_no_clustered_interval():
    fit = fit_votes(two(3, 1, 0))
    assert fit.fit.clustered is None and np.isinf(fit.elo(0).high) and np.isfinite(fit.elo(0, clustered=False).high)


def test_models_that_never_met_are_named():
    with pytest.raises(NoRanking, match="one side won every comparison, or there was none: a, b; c"):
        fit_votes(table([0, 1], [1, 0], [1, 1], models=("a", "b", "c")))


@pytest.mark.parametrize("x", [[1.0, -1, 1, -1], [2.0, -1, 0.1, -3]])
def test_a_covariate_that_foretells_every_vote_has_no_finite_fit(x):
    with pytest.raises(NoRanking, match="beside left: they foretell every one of 4 votes between 2 models"):
        fit_votes(table([0] * 4, [1] * 4, [1, -1, 1, -1], covariates=np.array(x)[:, None], names=("left",)))


def test_ties_between_foretold_wins_have_no_finite_fit_either():
    x = np.array([3.0, -3, 0.5, -0.5, 3, -3])[:, None]
    with pytest.raises(NoRanking, match="foretell every one"):
        fit_votes(table([0] * 6, [1] * 6, [1, -1, 0, 0, 1, -1], covariates=x, names=("bright",)))


def test_a_covariate_that_is_a_model_in_disguise_is_named():
    with pytest.raises(NoRanking, match="beside bright: in 4 votes .* cannot be told from theirs"):
        fit_votes(table([0] * 4, [1] * 4, [1, -1, 1, 1], covariates=np.ones((4, 1)), names=("bright",)))


def test_the_fit_is_scipy_s_logistic_likelihood_at_its_top():
    rng = np.random.default_rng(4)
    design, outcome = rng.normal(size=(60, 3)), rng.choice([1.0, -1.0, 0.0], 60)
    found, chances = maximum_likelihood(design, outcome, True)
    eta = design @ found[:3]
    slope = design.T @ (outcome - (chances[:, 0] - chances[:, 1]))
    assert slope == pytest.approx(0, abs=1e-6) and chances[:, 2].sum() == pytest.approx((outcome == 0).sum())
    assert np.log(chances[:, 0] / chances[:, 1]) == pytest.approx(eta)
    assert chances[:, 2]**2 / (chances[:, 0] * chances[:, 1]) == pytest.approx(np.exp(2 * found[3]))
