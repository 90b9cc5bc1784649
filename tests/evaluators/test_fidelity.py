"""Fidelity and coverage: identities, and numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from visalign.evaluators.fidelity import TooFew, cmmd, density_coverage, fid, jackknife, kid, precision_recall

PROMPTS = [f"p{i // 4}" for i in range(40)]


def cloud(n=40, d=8, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_same_set_is_precise_recalled_and_covered():
    points = cloud()
    found = precision_recall(points, points, PROMPTS) | density_coverage(points, points, PROMPTS)
    assert found["precision"].value == found["recall"].value == found["coverage"].value == 1
    unit = torch.nn.functional.normalize(points, dim=-1)
    assert kid(unit, unit, PROMPTS).value == pytest.approx(0, abs=0.03)
    assert cmmd(points, points, PROMPTS).value == pytest.approx(0, abs=1e-9)


def test_a_set_far_away_has_nothing():
    found = precision_recall(cloud(), cloud(seed=1, shift=50), PROMPTS)
    found |= density_coverage(cloud(), cloud(seed=1, shift=50), PROMPTS)
    assert {name: estimate.value for name, estimate in found.items()} == {
        "precision": 0, "recall": 0, "density": 0, "coverage": 0}
    assert found["precision"].high > 0  # forty misses do not prove that none would hit


def test_precision_and_recall_on_a_line_by_hand():
    real, fake = torch.arange(5.0)[:, None], torch.tensor([[0.4], [0.6], [9.0], [9.1]])
    found = precision_recall(real, fake, ["a", "a", "b", "b"], k=1)
    assert found["precision"].value == 0.5  # balls of radius 1 reach from -1 to 5
    assert found["recall"].value == 0  # the fakes' balls have radius 0.2 and 0.1
    wider = precision_recall(real, fake, ["a", "a", "b", "b"], k=3)
    # radii of the fakes to their third other: 8.7, 8.5, 8.6, 8.7
    assert wider["recall"].value == 1


def test_density_and_coverage_by_hand():
    real, fake = torch.arange(4.0)[:, None], torch.tensor([[0.5], [0.5]])
    found = density_coverage(real, fake, ["a", "b"], k=1)
    assert found["density"].value == 2  # each fake lies in the balls of 0 and 1
    assert found["coverage"].value == 0.5


def test_collapse_keeps_precision_and_loses_recall():
    real = cloud(200)
    found = precision_recall(real, real[:1].repeat(40, 1) + 0.01 * cloud(seed=2), PROMPTS)
    assert found["precision"].value == 1 and found["recall"].value < 0.05


def test_kid_is_the_unbiased_cubic_mmd():
    real, fake = cloud(12, 3).double(), cloud(12, 3, seed=1, shift=0.5).double()
    prompts = [f"p{i}" for i in range(12)]

    def kernel(a, b):
        return (a @ b.T / 3 + 1) ** 3

    n = len(real)
    expected = sum((kernel(x, x).sum() - kernel(x, x).diagonal().sum()) / (n * (n - 1)) for x in (real, fake))
    expected -= 2 * kernel(real, fake).mean()
    assert kid(real, fake, prompts).value == pytest.approx(expected.item(), rel=1e-6)


def test_cmmd_by_hand():
    real, fake = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert cmmd(real, fake, ["a"]).value == pytest.approx(1000 * (2 - 2 * math.exp(-2 / 200)))
    assert cmmd(real, 5 * fake, ["a"]).value == pytest.approx(cmmd(real, fake, ["a"]).value)  # features are normalised


def test_fid_of_shifted_gaussians_and_too_few():
    real, fake = cloud(2000, 2), cloud(2000, 2, seed=1, shift=1.0)
    estimate = fid(real, fake, [f"p{i // 10}" for i in range(2000)])
    assert estimate.value == pytest.approx(2, abs=0.3) and estimate.low < estimate.value < estimate.high
    with pytest.raises(TooFew, match="at least 2,000 samples on either side, there are 40 and 2000"):
        fid(real[:40], fake, PROMPTS)


def test_too_few_neighbours_and_samples_say_how_many_are_needed():
    with pytest.raises(TooFew, match="at least 4 samples on either side, there are 3"):
        precision_recall(cloud(3), cloud(3), ["a", "b", "c"])
    with pytest.raises(TooFew, match="at least 10"):
        kid(cloud(5), cloud(5), list("abcde"))


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).standard_normal(20)
    estimate = jackknife(lambda rows: values[rows].mean(), np.arange(20))
    assert estimate.high - estimate.value == pytest.approx(1.96 * values.std(ddof=1) / math.sqrt(20))
