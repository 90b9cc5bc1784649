"""Linear probes: the regression by hand, labels that are held and that are not, chance, and what is left out."""

import numpy as np
import pytest
import scipy

from visalign.evaluators.probing import LinearProbe, probe, shuffled
from visalign.evaluators.statistics import TooFew

PROMPTS = np.repeat(np.arange(30), 4)


def noise(seed=0, width=6):
    return np.random.default_rng(seed).normal(size=(len(PROMPTS), width))


def test_the_regression_by_hand():
    """Features -1, 1 of classes 0, 1, two samples each: the rows of W are w and -w with w = 4 sigmoid(-2 w), from
    4 log(1 + e^-2w) + w^2; no bias, by symmetry. w is 0.7408."""
    found = LinearProbe(np.array([[-1.], [-1], [1], [1]]), np.array([0, 0, 1, 1]), 2)
    by_hand = scipy.optimize.brentq(lambda w: w - 4 * scipy.special.expit(-2 * w), 0, 4)
    assert by_hand == pytest.approx(0.7408, abs=1e-3)
    np.testing.assert_allclose(found.table, [[-by_hand, by_hand], [0, 0]], atol=1e-4)


def test_every_class_weighs_alike():
    """90 of a class and 10 of another on the same feature: the border is where their means meet, not the rare class
    lost."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], [900, 100])
    features = rng.normal(size=(1000, 1)) + 2 * classes[:, None]
    said = LinearProbe(features, classes, 2).classes(features)
    assert (said == classes)[classes == 1].mean() == pytest.approx(scipy.stats.norm.cdf(1), abs=0.1)
    assert (said == classes)[classes == 0].mean() == pytest.approx(scipy.stats.norm.cdf(1), abs=0.05)


def test_a_label_that_is_a_coordinate_probes_at_one_and_a_shuffled_one_at_chance():
    """All of 30 prompts are told right: Clopper and Pearson's lower end is 0.025^(1/30) = 0.884."""
    labels = np.random.default_rng(1).integers(0, 3, len(PROMPTS))
    held = np.concatenate([noise(), 5.0 * np.eye(3)[labels]], 1)
    found = probe(held, labels.astype(str), PROMPTS)
    assert found.accuracy == (1, pytest.approx(0.025 ** (1 / 30)), 1)
    assert set(found.recall) == {"0", "1", "2"} and found.chance == pytest.approx(1 / 3)
    assert found.control == pytest.approx(1 / 3, abs=0.12) and found.selectivity == pytest.approx(1 - found.control)
    assert found.control_range[0] < found.control < found.control_range[1] < 0.6
    none = probe(noise(), labels.astype(str), PROMPTS)
    assert none.accuracy.low < 1 / 3 < none.accuracy.high and abs(none.selectivity) < 0.2


def test_labels_of_a_prompt_are_shuffled_over_prompts_and_told_of_prompts_never_seen():
    """A feature that only names the prompt says nothing of another prompt's label."""
    labels = np.random.default_rng(2).integers(0, 2, 30)
    names = np.eye(30)[PROMPTS]
    found = probe(names, labels[PROMPTS].astype(str), PROMPTS)
    assert found.accuracy.value <= 0.6
    for seed in range(5):
        other = shuffled(labels[PROMPTS], PROMPTS, np.random.default_rng(seed))
        assert all(len(set(other[prompt == PROMPTS])) == 1 for prompt in range(30))
        assert sorted(other) == sorted(labels[PROMPTS]) and (other != labels[PROMPTS]).any()
    mixed = np.tile([0, 1, 0, 1], 30)
    assert any(len(set(shuffled(mixed, PROMPTS, np.random.default_rng(0))[prompt == PROMPTS])) == 2
               for prompt in range(30))


def test_scale_and_place_of_features_change_nothing():
    labels = np.random.default_rng(3).integers(0, 2, len(PROMPTS)).astype(str)
    features = noise(4) + 0.8 * (labels == "1")[:, None]
    assert probe(features, labels, PROMPTS) == probe(100 * features - 7, labels, PROMPTS)


def test_classes_of_few_prompts_are_left_out():
    labels = np.where(PROMPTS < 4, "rare", np.where(PROMPTS % 2 == 0, "even", "odd"))
    found = probe(noise(), labels, PROMPTS)
    assert found.left_out == ("rare",) and found.samples == 104 and found.prompts == 26
    with pytest.raises(TooFew, match="at least 2 labels with samples of at least 5 prompts each, and there is 1"):
        probe(noise(), np.where(PROMPTS < 4, "rare", "often"), PROMPTS)
    with pytest.raises(ValueError, match="1 of 120 features are not finite"):
        probe(np.where(np.arange(120)[:, None] == 7, np.nan, noise()), labels, PROMPTS)
