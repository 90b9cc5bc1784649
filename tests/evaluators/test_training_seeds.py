"""Changes over training seeds: by hand, and how often the interval holds."""

import numpy as np
import pytest

from visalign.evaluators.statistics import TooFew, mean_with_interval
from visalign.evaluators.training_seeds import over_training_seeds


def test_two_runs_at_two_prompts_by_hand():
    found = over_training_seeds([[1.0, 3.0], [2.0, 8.0]])
    # runs 2, 5; prompts 1.5, 5.5; mean 3.5; rest (1, -1), (-1, 1): squares 2 x 4.5, 2 x 8, 4
    assert found.change.value == 3.5 and found.each == (2.0, 5.0)
    assert found.between == pytest.approx(((9 - 4) / 2) ** 0.5)
    # variance (9 + 16 - 4) / 4; freedom 21^2 / (81 + 256 + 16) = 1.249292
    from scipy.stats import t

    assert found.change.high - found.change.value == pytest.approx(t.ppf(0.975, 21**2 / 353) * 5.25**0.5)


def test_runs_that_agree_leave_the_prompts_alone():
    one = np.random.default_rng(0).normal(1, 1, 60)
    several = over_training_seeds([one, one, one]).change
    alone = mean_with_interval(one)
    assert several.low == pytest.approx(alone.low, abs=0.03) and several.high == pytest.approx(alone.high, abs=0.03)
    assert over_training_seeds([one, one]).between == 0
    assert over_training_seeds(np.ones((2, 3))).change == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(("run", "prompt"), [(0.0, 0.5), (0.3, 0.5), (1.0, 0.1)])
def test_intervals_hold_for_other_runs_at_other_prompts(run, prompt):
    rng, studies, held, alone = np.random.default_rng(0), 1500, 0, 0
    for _ in range(studies):
        changes = (rng.normal(0, run, (3, 1)) + rng.normal(0, prompt, (1, 40)) + rng.normal(0, 1, (3, 40)))
        found = over_training_seeds(changes).change
        held += found.low <= 0 <= found.high
        reach = 1.96 * changes.mean(0).std(ddof=1) / 40**0.5
        alone += abs(changes.mean()) <= reach
    assert held / studies > 0.93
    assert run == 0 or alone / studies < 0.85  # an interval over prompts alone misses


@pytest.mark.parametrize(("changes", "error", "said"), [
    ([[1.0, 2.0]], TooFew, "at least 2 runs at 2 prompts; there are 1 at 2"),
    ([[1.0], [2.0]], TooFew, "there are 2 at 1"),
    ([[1.0, np.inf], [2.0, 1.0]], ValueError, "1 of 4 changes are not finite")])
def test_what_has_no_interval_is_refused(changes, error, said):
    with pytest.raises(error, match=said):
        over_training_seeds(changes)
