"""How much evidence a claim needs: by hand, and by drawing studies of the planned size."""

import numpy as np
import pytest

from visalign.evaluators.power import (
    Spread,
    detectable,
    prompts_needed,
    seen_by,
    spread_of,
    votes_needed,
)
from visalign.evaluators.statistics import Estimate, TooFew, mean_with_interval


def test_a_pilot_tells_prompts_from_seeds():
    # means 0, 4, 2: variance 4; within prompts 2, 8, 2: mean 4; between 4 - 4 / 2 = 2
    assert spread_of([[-1, 1], [2, 6], [1, 3]]) == pytest.approx((2**0.5, 2.0))
    assert spread_of([[-3, 3], [-3, 3]]).prompt == 0  # means differ less than seeds explain
    drawn = np.random.default_rng(0)
    pilot = drawn.normal(0, 0.5, (4000, 1)) + drawn.normal(0, 2, (4000, 3))
    assert spread_of(pilot) == pytest.approx((0.5, 2.0), abs=0.1)


@pytest.mark.parametrize(("pilot", "said"), [
    ([[1.0, 2.0]], "at least 2 prompts with 2 seeds each.* it has 1 with 2"),
    ([[1.0], [2.0]], "it has 2 with 1"),
    ([[1.0, 1.0], [1.0, 1.0]], "all differences of the pilot are equal"),
    ([[1.0, np.nan], [1.0, 1.0]], "1 of 4 differences are not finite"),
])
def test_a_pilot_that_says_nothing_is_refused(pilot, said):
    with pytest.raises(TooFew if "it has" in said else ValueError, match=said):
        spread_of(pilot)


def test_what_is_seen_by_hand():
    # 10 prompts x 4 seeds: variance (1 + 4 / 4) / 10 = 0.2; t of 9: 2.262157 + 0.883404
    assert detectable(Spread(1.0, 2.0), 10, 4) == pytest.approx(3.145561 * 0.2**0.5, abs=1e-5)
    assert detectable(Spread(1.0, 2.0), 1, 4) == float("inf")
    # where t is all but normal: ((1.959964 + 0.841621) / 0.05)^2 = 3139.6 prompts, and a few for the t
    assert prompts_needed(Spread(1.0, 0.0), 0.05, 1) == pytest.approx(3140, abs=4)
    for seeds in (1, 2, 8):
        count = prompts_needed(Spread(0.5, 1.5), 0.3, seeds)
        assert detectable(Spread(0.5, 1.5), count, seeds) <= 0.3 < detectable(Spread(0.5, 1.5), count - 1, seeds)
    assert prompts_needed(Spread(1.0, 1.0), 1e-6, 1) is None
    # (1.959964 x 0.5 + 0.841621 x 0.489898)^2 / 0.1^2 = 193.8
    assert votes_needed(0.6) == 194
    assert seen_by(Estimate(0.1, -0.1, 0.3)) == pytest.approx(0.2 * 2.801585 / 1.959964, abs=1e-6)


@pytest.mark.parametrize(("call", "said"), [
    (lambda: prompts_needed(Spread(1, 1), 0.0, 1), "an effect is above 0, got 0"),
    (lambda: votes_needed(0.5), "between 0.5 and 1, got 0.5"),
    (lambda: votes_needed(1.0), "between 0.5 and 1, got 1"),
])
def test_questions_without_an_answer(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_studies_of_the_planned_size_see_the_effect_in_four_of_five_cases():
    rng, spread, effect, seeds = np.random.default_rng(0), Spread(0.6, 1.2), 0.4, 3
    count, seen, studies = prompts_needed(spread, effect, seeds), 0, 400
    for _ in range(studies):
        study = effect + rng.normal(0, spread.prompt, (count, 1)) + rng.normal(0, spread.seed, (count, seeds))
        seen += mean_with_interval(study.mean(1), resamples=500).low > 0
    assert 0.74 < seen / studies < 0.88
