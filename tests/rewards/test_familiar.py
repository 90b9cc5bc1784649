"""A reward that is unsure far from what was labelled: distances and spreads by hand, and what is refused."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from visalign.errors import UserError
from visalign.media.samples import Sample
from visalign.rewards import RewardModel, Scores, load_reward
from visalign.rewards.familiar import Centres, Familiar, fit_centres
from visalign.storage.weights import write_tensors

IMAGE = Image.new("RGB", (8, 8), "red")
FLAT = Centres(*(torch.tensor(each, dtype=torch.float64) for each in (
    [1.0, 1.0], [2.0, 2.0], [[0.0, 0.0], [4.0, 0.0]], 0.5, [3.0])))


@dataclass
class Told(RewardModel):
    """Value, features and spread that the sample carries."""

    def features(self, images):
        raise AssertionError

    def sample_features(self, samples):
        return torch.tensor([sample.known["at"] for sample in samples])

    def score_batch(self, samples):
        return Scores(torch.tensor([[sample.known["value"]] for sample in samples]), {},
                      torch.tensor([[sample.known.get("spread", 0.0)] for sample in samples]))


def familiar(tmp_path, centres=FLAT):
    write_tensors(tmp_path / "c.safetensors", centres._asdict())
    return Familiar(of=[Told(name="told")], centres=str(tmp_path / "c.safetensors"))


def test_distances_and_the_spread_they_add_by_hand():
    at = torch.tensor([[1.0, 1.0], [9.0, 1.0], [2.0, 1.0], [1.0, 5.0]])  # standardised: (0,0) (4,0) (.5,0) (0,2)
    root = 2**0.5
    assert FLAT.distances(at).tolist() == pytest.approx([0, 0, 0.5 / root, 2 / root])
    assert FLAT.spread(at).flatten().tolist() == pytest.approx([0, 0, 0, 3 * (2 / root / 0.5 - 1)])


def test_values_stay_and_spreads_add_as_variances(tmp_path):
    reward = familiar(tmp_path)
    known = [{"at": [1.0, 1.0], "value": 0.25, "spread": 2.0}, {"at": [1.0, 5.0], "value": -3.0, "spread": 2.0}]
    answer = reward.score([Sample("p", IMAGE, known=each) for each in known])
    further = 3 * (2 / 2**0.5 / 0.5 - 1)
    assert answer.values.flatten().tolist() == [0.25, -3.0]
    assert answer.spread.flatten().tolist() == pytest.approx([2.0, (4 + further**2) ** 0.5])


def test_centres_of_each_label_and_the_share_that_is_near():
    rng = np.random.default_rng(0)
    label = np.repeat(["left", "right"], 200)
    features = rng.normal(size=(400, 3)) * 0.1 + np.where(label == "left", -1.0, 1.0)[:, None]
    labels = [[None if i % 50 == 0 else name for i, name in enumerate(label)]]
    fold, scores = np.arange(400) % 5, np.stack([features[:, 0], np.full(400, np.nan)], 1)
    found = fit_centres(features, labels, fold, scores, 0.9)
    assert found.centres.shape == (8, 3) and found.scale.tolist() == pytest.approx([features[:, 0].std(), 0])
    near = (found.distances(torch.tensor(features)) <= found.within).double().mean().item()
    assert 0.88 <= near <= 0.97
    between = torch.zeros(1, 3, dtype=torch.float64)
    assert found.distances(between).item() > 2 * found.within
    again = fit_centres(features, labels, fold, scores, 0.9)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_scores_that_are_all_the_same_give_no_unit():
    with pytest.raises(ValueError, match="all the same"):
        fit_centres(np.random.default_rng(0).normal(size=(20, 2)), [["a"] * 20], np.arange(20) % 5,
                    np.ones((20, 1)), 0.9)


@pytest.mark.parametrize("centres, said", [
    ({"mean": torch.zeros(2)}, "holds mean; expected mean, std, centres, within, scale"),
    (FLAT._replace(scale=torch.ones(2))._asdict(), "is of a reward with 2 dimensions, and told has 1")])
def test_a_file_of_something_else_is_named(tmp_path, centres, said):
    write_tensors(tmp_path / "c.safetensors", centres)
    with pytest.raises(UserError, match=said):
        Familiar(of=[Told(name="told")], centres=str(tmp_path / "c.safetensors")).check()


def test_other_features_are_refused(tmp_path):
    with pytest.raises(UserError, match="is of 2 features, and told has 3"):
        familiar(tmp_path).score([Sample("p", IMAGE, known={"at": [1.0, 2.0, 3.0], "value": 0.0})])


def test_settings_are_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(UserError, match="set centres to what"):
        load_reward({"kind": "familiar", "of": "tiny-clip"})
    with pytest.raises(UserError, match="saturation: has no features"):
        load_reward({"kind": "familiar", "of": "saturation", "centres": "x"})
    with pytest.raises(UserError, match="of must name one reward, found 2"):
        load_reward({"kind": "familiar", "of": ["tiny-clip", "tiny-reward"], "centres": "x"})
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        load_reward({"kind": "familiar", "of": "tiny-clip", "centres": "nowhere.safetensors"})
