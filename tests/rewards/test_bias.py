"""Bias removal: a planted bias is found and taken out, an honest reward is left alone."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import load_reward
from visalign.rewards.bias import FEATURES, correlation, fit_bias, nuisance


@pytest.fixture(scope="module")
def planted():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, len(FEATURES)))
    honest = rng.normal(size=600)
    return features, honest, honest + 2 * features[:, 1] - 0.5 * features[:, 3] ** 2


def test_a_planted_bias_is_removed_and_the_honest_part_stays(planted):
    features, honest, rewards = planted
    model = fit_bias(rewards, features)
    assert model.before["saturation"] > 0.8 and abs(model.after["saturation"]) < 0.1
    left = rewards - model.bias(features)
    assert correlation(left, honest) > 0.97 and correlation(rewards, honest) < 0.6


def test_a_reward_without_bias_is_hardly_changed(planted):
    features, honest, _ = planted
    assert correlation(honest - fit_bias(honest, features).bias(features), honest) > 0.97


def test_too_few_samples_and_constant_rewards_are_refused():
    features = np.random.default_rng(1).normal(size=(60, len(FEATURES)))
    with pytest.raises(UserError, match="at least 50"):
        fit_bias(np.arange(40.0), features[:40])
    with pytest.raises(UserError, match="the same for all"):
        fit_bias(np.ones(60), features)


def test_features_are_those_of_the_image():
    values = dict(zip(FEATURES, nuisance(Sample("four", Image.new("RGB", (8, 8), (200, 100, 100)))), strict=True))
    assert values["saturation"] == pytest.approx(0.5) and values["prompt_length"] == 4 and values["sharpness"] == 0


def test_the_debiased_reward_subtracts_the_fit(planted, tmp_path):
    features, _, rewards = planted
    model = fit_bias(rewards, features)
    (tmp_path / "bias.json").write_text(json.dumps({"bias": asdict(model)}))
    sample = Sample("x", Image.new("RGB", (8, 8), (200, 100, 100)))
    reward = load_reward({"kind": "debiased", "of": ["saturation"], "model": str(tmp_path / "bias.json")})
    expected = 0.5 - model.bias(np.array([nuisance(sample)]))[0]
    assert reward.score([sample]).values.item() == pytest.approx(expected, abs=1e-5)
    (tmp_path / "bias.json").write_text("{}")
    with pytest.raises(UserError, match="not a bias model"):
        load_reward({"kind": "debiased", "of": ["saturation"], "model": str(tmp_path / "bias.json")})
