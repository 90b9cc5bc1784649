"""Strategies that turn scored generations into pairs."""

import pytest

from visalign.data.pair_selection import (
    Candidate,
    PairCounts,
    all_pairs,
    best_worst,
    confidence,
    keep,
    rank_consistency,
    rejection_sampled,
    sifted,
)


def candidates(*scores, spread=0.0):
    return [Candidate(i, score, spread) for i, score in enumerate(scores)]


def numbers(pairs):
    return [(a.number, b.number) for a, b in pairs]


def test_best_against_worst_then_inwards():
    group = candidates(0.1, 0.9, 0.5, 0.3)
    assert numbers(best_worst(group)) == [(1, 0)] and numbers(best_worst(group, 5)) == [(1, 0), (2, 3)]


def test_all_pairs_have_the_better_one_first():
    assert numbers(all_pairs(candidates(0.1, 0.9, 0.5))) == [(1, 2), (1, 0), (2, 0)]


def test_ties_small_gaps_and_doubtful_pairs_are_left_out_and_counted():
    counts = PairCounts()
    assert keep(best_worst(candidates(0.5, 0.5)), counts) == []
    assert keep(best_worst(candidates(0.5, 0.6)), counts, min_gap=0.2) == []
    assert keep(best_worst(candidates(0.0, 1.0, spread=1.0)), counts, min_confidence=0.9) == []
    assert numbers(keep(best_worst(candidates(0.0, 3.0, spread=1.0)), counts, min_confidence=0.9)) == [(1, 0)]
    assert keep([tuple(candidates(0.1, 0.9))], counts) == []  # a ranking that the scores contradict
    assert (counts.kept, counts.ties, counts.uncertain, counts.disagreements, counts.prompts_without) == (1, 2, 1, 1, 4)


def test_confidence_is_the_normal_probability_of_the_gap():
    # gap 1, spread sqrt(2): Phi(0.7071) = 0.7602
    assert confidence(*candidates(1.0, 0.0, spread=1.0)) == pytest.approx(0.7602, abs=1e-4)
    assert confidence(*candidates(1.0, 0.0)) == 1.0 and confidence(*candidates(1.0, 1.0)) == 0.0


def test_sifting_takes_the_best_winner_and_the_worst_loser():
    group = candidates(1, 2, 3, 4, 5, 6)
    better, worse = sifted(group, lambda pairs: [a.score > b.score for a, b in pairs], seed=1)[0]
    assert better.score == 6 and worse.score == 1
    assert sifted(group, lambda pairs: [None] * len(pairs)) == []


def test_a_ranker_may_overrule_the_scores():
    better, worse = sifted(candidates(1, 2), lambda pairs: [a.score < b.score for a, b in pairs])[0]
    assert (better.score, worse.score) == (1, 2)


def test_one_generation_makes_no_pair():
    assert best_worst(candidates(0.3)) == [] == all_pairs(candidates(0.3))


def test_rejection_sampling_keeps_the_best_or_any():
    group = candidates(0.1, 0.9, 0.5, 0.3, 0.7, 0.2)
    for seed in range(5):
        assert numbers(rejection_sampled(group, 1e-6, seed=seed)) == [(1, 4)]
    strict = rejection_sampled(group, 1e-6, top=2)
    assert {c.number for pair in strict for c in pair} == {1, 4, 2, 3} and all(a.score > b.score for a, b in strict)
    seen = {c.number for seed in range(40) for pair in rejection_sampled(group, 1e6, seed=seed) for c in pair}
    assert seen == set(range(6))
    assert len(rejection_sampled(group, 0.5, top=9)) == 3 and rejection_sampled(group[:1], 0.5) == []
    assert rejection_sampled(group, 0.5, seed=3) == rejection_sampled(list(reversed(group)), 0.5, seed=3)


def test_what_rejection_sampling_keeps_follows_the_score():
    # scores 0 and 1, beta 1: kept with e^-1 and 1 in the first pass: 0.3679 / 1.3679 = 0.2689 of what is kept
    group = candidates(*[0.0] * 400, *[1.0] * 400)
    kept = [c.score for seed in range(30) for pair in rejection_sampled(group, 1.0, top=20, seed=seed) for c in pair]
    assert len(kept) == 1200 and sum(score == 0 for score in kept) / 1200 == pytest.approx(0.2689, abs=0.04)


def test_rankings_agree_by_kendalls_tau():
    # 5 of 6 pairs in the same order: tau (5 - 1)/6, (tau + 1)/2 = 5/6
    assert rank_consistency((1, 2, 3, 4), (1, 3, 2, 4)) == pytest.approx(0.833333, abs=1e-6)
    assert rank_consistency((1, 2, 3), (1.5, 20, 300)) == 1 and rank_consistency((1, 2, 3), (3, 2, 1)) == 0
    assert rank_consistency((1, 2), (5, 5)) == 0.5 and rank_consistency((1,), (1,)) != rank_consistency((1,), (1,))
