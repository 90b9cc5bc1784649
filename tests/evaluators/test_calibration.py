"""Mean labels from a reward's scores: by hand, what stays as it is, what is refused, and how often intervals hold."""

import numpy as np
import pytest
import scipy

from visalign.evaluators.calibration import (
    InvertedReward,
    OutsideLabels,
    RewardCalibration,
    fold_jackknife,
    folds_of_prompts,
    isotonic_curve,
    part_of_mean,
    t_interval,
)
from visalign.evaluators.statistics import TooFew


def test_the_curve_by_hand_keeps_the_mean_of_the_labels():
    """(0, 1, 0, 1, 1) rises as (0, 1/2, 1/2, 1, 1): mean 0.6 twice. Linear between, flat beyond."""
    curve = isotonic_curve([1, 2, 3, 4, 5], [0, 1, 0, 1, 1])
    np.testing.assert_allclose(curve(np.array([1., 2, 3, 4, 5])), [0, 0.5, 0.5, 1, 1])
    assert curve(np.array([1., 2, 3, 4, 5])).mean() == pytest.approx(0.6)
    np.testing.assert_allclose(curve(np.array([-9, 1.5, 3.5, 9])), [0, 0.25, 0.75, 1])


def test_equal_scores_share_the_mean_of_their_labels():
    """Scores (1, 1, 1, 2), labels (1, 1, 0, 0): the mean 2/3 of three falls to 0, so all pool to 1/2."""
    np.testing.assert_allclose(isotonic_curve([1, 1, 1, 2], [1, 1, 0, 0])(np.array([1., 2])), [0.5, 0.5])
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 50), rng.random(50)
    assert isotonic_curve(scores, labels)(scores).mean() == pytest.approx(labels.mean(), abs=1e-12)


def test_a_rising_map_of_the_scores_changes_nothing_where_they_are_labelled():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=40), rng.random(40)
    np.testing.assert_allclose(isotonic_curve(np.exp(scores), labels)(np.exp(scores)),
                               isotonic_curve(scores, labels)(scores), atol=1e-12)


def test_the_jackknife_by_hand():
    """Around 0.52: (-.02, .02, 0, -.03, .03), squares 0.0026 in all, times 4/5. With 0.02^2: sqrt(.00248) = .0498."""
    variance, freedom = fold_jackknife([0.50, 0.54, 0.52, 0.49, 0.55])
    assert variance == pytest.approx(0.00208) and freedom == 4
    interval = t_interval(0.52, [(0.02 ** 2, 1e9), (variance, freedom)])
    # Welch and Satterthwaite: .00248^2 / (.00208^2 / 4) = 5.6864
    half = scipy.stats.t.ppf(0.975, 5.6864) * 0.0498
    assert interval == pytest.approx((0.52, 0.52 - half, 0.52 + half), abs=1e-4)


def test_labels_that_leave_nothing_open_leave_the_plain_interval():
    """Var_cal 0: Student's t over prompts. Means of the prompts (0, 1), (1, 1), (0, 0): 0.5, 1, 0."""
    values, prompts = np.array([0., 1, 1, 1, 0, 0]), np.repeat([0, 1, 2], 2)
    plain = scipy.stats.t.interval(0.95, 2, 0.5, np.std([0.5, 1, 0], ddof=1) / 3 ** 0.5)
    assert t_interval(0.5, [part_of_mean(values, prompts), (0.0, 4.0)])[1:] == pytest.approx(plain)
    assert t_interval(0.3, [(0.0, 9.0), (0.0, 4.0)]) == (0.3, 0.3, 0.3)


def test_folds_hold_whole_prompts_and_are_of_about_one_size():
    prompt = np.repeat(np.arange(12), [5, 1, 1, 2, 2, 3, 3, 1, 1, 1, 2, 3])
    fold = folds_of_prompts(prompt, 5)
    assert all(len(set(fold[prompt == p])) == 1 for p in range(12))
    assert np.bincount(fold).tolist() == [5, 5, 5, 5, 5]


def test_residuals_are_from_the_curve_without_their_prompt():
    rng = np.random.default_rng(0)
    scores, prompts = rng.normal(size=30), np.arange(30)
    labels = scores + 0.1 * rng.normal(size=30)
    found, moved = RewardCalibration(scores, labels, prompts), labels.copy()
    moved[7] += 100
    other = RewardCalibration(scores, moved, prompts)
    mine = found.fold == found.fold[7]
    change = other.residuals() - found.residuals()
    assert change[7] == pytest.approx(100) and np.abs(np.delete(change[mine], np.flatnonzero(mine) == 7)).max() < 1e-9


def study(seed, labels=100, shift=0.0, prompts=100, samples=4, drift=0.0):
    """A reward that saturates high up, yes-or-no labels of some samples; and the labels of all. drift: how much more
    the measured policy has than the labelled one."""
    rng = np.random.default_rng(seed)

    def draw(mean):
        quality = mean + 0.6 * rng.normal(size=(prompts, 1)) + 0.8 * rng.normal(size=(prompts, samples))
        scores = np.tanh(1.5 * quality + 1) + 0.15 * rng.normal(size=quality.shape)
        return scores.ravel(), (rng.random(quality.shape) < 1 / (1 + np.exp(-2 * quality))).astype(float).ravel()

    groups = np.repeat(np.arange(prompts), samples)
    scores, truth = draw(shift)
    rows = rng.choice(len(groups), labels, replace=False)
    if not drift:
        return scores, truth, groups, (scores[rows], truth[rows], groups[rows])
    known, said = draw(shift - drift)
    return scores, truth, groups, (known[rows], said[rows], prompts + groups[rows])


def true_mean(shift):
    quality = shift + np.linspace(-8, 8, 20001)
    weight = np.exp(-np.linspace(-8, 8, 20001) ** 2 / 2)
    return float((weight / (1 + np.exp(-2 * quality))).sum() / weight.sum())


def coverage(studies, random_slice, drift):
    """Of the studies that are not refused, how many, and how often these hold the true mean: the interval, one that
    takes the calibration for certain, and that of the reward's own mean."""
    truth, held = true_mean(drift), []
    for seed in range(studies):
        scores, _, prompts, labelled = study(seed, shift=drift, drift=drift)
        try:
            drawn = np.ones(len(labelled[0]), bool) if random_slice else None
            found = RewardCalibration(*labelled).mean(scores, prompts, drawn)
        except OutsideLabels:
            continue
        sure = t_interval(found.estimate.value, [(found.sampling ** 2, 99.0)])
        naive = t_interval(((scores + 1) / 2).mean(), [part_of_mean((scores + 1) / 2, prompts)])
        held.append([each.low <= truth <= each.high for each in (found.estimate, sure, naive)])
    return len(held), *np.mean(held, 0)


CASES = pytest.mark.parametrize("random_slice, drift", [(False, 0.0), (True, 0.0), (False, 0.2)])


@CASES
def test_intervals_hold_and_those_that_leave_the_calibration_out_do_not(random_slice, drift):
    """200 studies: three standard errors around 95 % are 90 to 99.6 %."""
    used, held, sure, naive = coverage(200, random_slice, drift)
    assert used > 180 and 0.90 <= held <= 0.996 and sure < 0.75 and naive < 0.05


@pytest.mark.slow
@CASES
def test_intervals_hold_in_93_to_97_of_100_studies(random_slice, drift):
    used, held, sure, naive = coverage(2000, random_slice, drift)
    assert used > 1800 and 0.93 <= held <= 0.97 and sure < 0.75 and naive < 0.05


def test_policies_rank_as_by_all_labels_and_the_better_one_is_clear():
    """Five policies and 100 labels among them all; a difference takes out what the prompts share."""
    drawn = [study(seed, shift=shift, prompts=200) for seed, shift in enumerate((-0.6, -0.3, 0.0, 0.3, 0.6))]
    known = RewardCalibration(*(np.concatenate([each[3][part][:20] for each in drawn]) for part in range(3)))
    means = [known.mean(scores, prompts).estimate.value for scores, _, prompts, _ in drawn]
    assert np.argsort(means).tolist() == np.argsort([truth.mean() for _, truth, _, _ in drawn]).tolist()
    (low, _, prompts, _), (high, _, _, _) = drawn[0], drawn[-1]
    found = known.difference(high, prompts, low, prompts).estimate
    assert found.low > 0 and found.value == pytest.approx(means[-1] - means[0])
    assert known.difference(low, prompts, low, prompts).estimate == pytest.approx((0, 0, 0), abs=1e-12)


def test_labels_of_a_random_part_correct_a_reward_that_overrates_one_of_two():
    """Two policies of one quality, of which the reward likes the second more: their difference is 0."""
    held = {"drawn": [], "curve": []}
    second = np.repeat([False, True], 60)
    for seed in range(60):
        (fair, _, prompts, known), (high, _, _, other) = study(seed, labels=60), study(1000 + seed, labels=60)
        labelled = RewardCalibration(np.append(known[0], other[0] + 0.8), np.append(known[1], other[1]),
                                     np.append(known[2], other[2]))
        for name, drawn in (("drawn", (second, ~second)), ("curve", None)):
            try:
                found = labelled.difference(high + 0.8, prompts, fair, prompts, drawn).estimate
            except OutsideLabels:
                continue
            held[name].append(found.low <= 0 <= found.high)
    assert len(held["drawn"]) > 30 and np.mean(held["drawn"]) >= 0.88 and np.mean(held["curve"]) < 0.5


def test_what_is_labelled_at_random_is_added_by_hand():
    """psi_a: the mean level and, of the policy's own labels, what they are more than the curve without their fold."""
    scores, _, prompts, labelled = study(3)
    known, own = RewardCalibration(*labelled), np.arange(100) < 40
    more = known.residuals()[own].mean()
    plain, found = known.mean(scores, prompts), known.mean(scores, prompts, own)
    assert found.estimate.value == pytest.approx(plain.estimate.value + more) and found.sampling == plain.sampling
    assert found.calibration == pytest.approx(part_of_mean(known.residuals()[own], known.prompts[own])[0] ** 0.5)
    gain = known.difference(scores, prompts, scores, prompts, (own, ~own)).estimate
    assert gain.value == pytest.approx(more - known.residuals()[~own].mean()) and gain.low < gain.value < gain.high
    with pytest.raises(TooFew, match="its own samples have 3 labels, and as a random part of them it takes at least 4"):
        known.mean(scores, prompts, np.arange(100) < 3)


def test_what_is_not_known_is_refused():
    rng = np.random.default_rng(0)
    scores, prompts = np.linspace(0, 1, 40), np.repeat(np.arange(20), 2)
    labels = (scores + 0.2 * rng.normal(size=40) > 0.5).astype(float)
    known = RewardCalibration(scores, labels, prompts)
    assert known.mean(np.append(scores, 1.5), np.append(prompts, 0)).outside == pytest.approx(1 / 41)
    with pytest.raises(OutsideLabels, match="50 % of the scores lie outside 0 to 1"):
        known.mean(scores + 0.5, prompts)
    with pytest.raises(OutsideLabels):
        known.difference(scores, prompts, scores - 2, prompts)
    with pytest.raises(InvertedReward, match="do not rise"):
        RewardCalibration(-scores, scores, prompts)
    with pytest.raises(InvertedReward):
        RewardCalibration(np.zeros(40), labels, prompts)
    with pytest.raises(TooFew, match="at least 4 labels, and there are 3"):
        RewardCalibration(scores[:3], labels[:3], prompts[:3])
    with pytest.raises(TooFew, match="at least 2 prompts"):
        RewardCalibration(scores, labels, np.zeros(40))
    with pytest.raises(TooFew, match="at least 2 prompts"):
        known.mean(scores, np.zeros(40))
    with pytest.raises(ValueError, match="must be finite"):
        RewardCalibration(scores, np.where(labels > 0, np.nan, labels), prompts)
    with pytest.raises(ValueError, match="1 of 40 scores are not finite"):
        known.mean(np.append(scores[1:], np.nan), prompts)
    with pytest.raises(ValueError, match="40 scores, 39 labels"):
        RewardCalibration(scores, labels[1:], prompts)


def test_few_labels_are_said_to_be_few():
    scores = np.arange(12.0)
    for labels, few in ((4, True), (9, True), (10, False)):
        rows = np.r_[0, 11, 1:labels - 1]
        known = RewardCalibration(scores[rows], scores[rows], rows)
        assert known.mean(scores, np.arange(12)).few == few
        assert len(known.without) == min(5, labels // 2)


def lengthy(seed, labels=150, prompts=100, samples=4, longer=0.5):
    """A reward that likes long answers, which the oracle does not; the measured policy, otherwise the labelled one,
    writes longer ones. Scores come with the length behind them; the true mean is 1/2."""
    rng, groups = np.random.default_rng(seed), np.repeat(np.arange(prompts), samples)

    def draw(more):
        quality = 0.6 * rng.normal(size=(prompts, 1)) + 0.8 * rng.normal(size=(prompts, samples))
        length = more + rng.normal(size=quality.shape)
        scores = quality + 0.7 * length + 0.2 * rng.normal(size=quality.shape)
        said = rng.random(quality.shape) < 1 / (1 + np.exp(-2 * quality))
        return np.stack([scores.ravel(), length.ravel()], 1), said.astype(float).ravel()

    (known, said), (mine, _), rows = draw(0.0), draw(longer), rng.choice(len(groups), labels, replace=False)
    return mine, groups, (known[rows], said[rows], prompts + groups[rows])


def humped(seed, samples=400, labels=100):
    """A reward whose middle scores are the best ones."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-2, 2, samples)
    said = (rng.random(samples) < np.exp(-(scores - 0.5) ** 2)).astype(float)
    rows = rng.choice(samples, labels, replace=False)
    return scores, np.arange(samples), (scores[rows], said[rows], rows)


def coverage_of(draw, truth, studies):
    """How often the interval holds, that of the scores without covariates, and how often there were two stages."""
    held = []
    for seed in range(studies):
        scores, prompts, labelled = draw(seed)
        try:
            known = RewardCalibration(*labelled)
            alone = RewardCalibration(labelled[0].reshape(len(labelled[1]), -1)[:, 0], *labelled[1:])
            pair = known.mean(scores, prompts), alone.mean(scores.reshape(len(scores), -1)[:, 0], prompts)
        except (OutsideLabels, InvertedReward):
            continue
        held.append([*(each.estimate.low <= truth <= each.estimate.high for each in pair), known.two_stage])
    assert len(held) > 0.9 * studies
    return np.mean(held, 0)


HUMP = float(np.exp(-(np.linspace(-2, 2, 100001) - 0.5) ** 2).mean())


@pytest.mark.parametrize("studies, low, high", [
    (100, 0.88, 1.0), pytest.param(2000, 0.93, 0.97, marks=pytest.mark.slow)])
def test_a_covariate_takes_out_what_the_reward_is_bribed_with(studies, low, high):
    held, alone, staged = coverage_of(lengthy, 0.5, studies)
    assert low <= held <= high and alone < 0.8 and staged == 1


@pytest.mark.parametrize("studies, low, high", [
    (100, 0.88, 1.0), pytest.param(2000, 0.93, 0.97, marks=pytest.mark.slow)])
def test_a_reward_whose_middle_is_best_gets_two_stages(studies, low, high):
    held, _, staged = coverage_of(humped, HUMP, studies)
    assert low <= held <= high and staged > 0.7


def test_two_stages_keep_the_mean_and_are_left_alone_where_one_does():
    mine, _, labelled = lengthy(0)
    known = RewardCalibration(*labelled)
    assert known.two_stage and known.curve(labelled[0]).mean() == pytest.approx(labelled[1].mean(), abs=1e-12)
    staged = [RewardCalibration(*study(seed)[3]).two_stage for seed in range(50)]
    assert np.mean(staged) < 0.25
    with pytest.raises(ValueError, match="there are 0 covariates, and those of the labelled samples are 1"):
        known.mean(mine[:, 0], np.arange(len(mine)))
