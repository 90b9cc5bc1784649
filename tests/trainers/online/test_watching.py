"""What an online run knows of its groups' diversity: measured by hand, kept, and known again after a resume."""

import math
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from tests.trainers.commands import rows, run, weights
from visalign.config import OnlineConfig
from visalign.errors import UserError
from visalign.evaluators.style import STYLE
from visalign.evaluators.verdict import VerdictLimits
from visalign.media.samples import Sample
from visalign.parallel.sharing import ALONE
from visalign.trainers.online.collect import RolloutBatch
from visalign.trainers.online.sample_watch import SampleWatch, sample_watch
from visalign.trainers.online.watching import GroupWatch


class Folder:
    """A run's folder in memory."""

    def __init__(self):
        self.rows = []

    def log(self, row):
        self.rows.append(row)

    def metrics(self):
        return self.rows


def collected(features: torch.Tensor, rewards=None, watched=None) -> RolloutBatch:
    n = len(features)
    return RolloutBatch({}, torch.zeros(n, 1) if rewards is None else rewards, torch.arange(n) // (n // 2),
                        ["one"] * (n // 2) + ["two"] * (n // 2), [], {}, frozenset({1, 0}), 0, features, watched)


def watch_in(run, group_size=2, members=2, weights=(1.0,), **more):
    return GroupWatch(run, ALONE, 10, SampleWatch(group_size, members, **more), torch.tensor(weights))


def test_groups_are_measured_kept_and_known_again():
    run = Folder()
    watch = watch_in(run)
    alike, unlike = [[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
    logged = watch.note(1, collected(torch.tensor(alike + unlike)))
    assert logged == {"group_diversity": pytest.approx(0.5, abs=1e-6)}  # Vendi scores 1 and 2, less 1
    assert watch.epochs[0].diversity == pytest.approx((0.0, 1.0), abs=1e-5) and watch.epochs[0].noisy == (0, 1)
    assert len(set(watch.epochs[0].prompts)) == 2 and "one" not in watch.epochs[0].prompts
    assert watch_in(run).epochs == watch.epochs
    assert watch.suspicion(VerdictLimits()) is None and watch_in(Folder()).suspicion(VerdictLimits()) is None
    del run.rows[0]["levels"], run.rows[0]["spread"]  # as earlier versions wrote them
    assert watch_in(run).epochs[0].diversity == watch.epochs[0].diversity


def test_of_each_group_only_the_first_members_are_measured():
    nan = math.nan
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0], [0, 1]])
    partly = features.clone()
    partly[[2, 5]] = nan
    assert watch_in(Folder(), 3).note(1, collected(partly)) == {"group_diversity": pytest.approx(0.5, abs=1e-6)}
    everything = watch_in(Folder(), 3, embeds_all=True).note(1, collected(features))  # Vendi of (2, 1) of 3: 1.8899
    assert everything == {"group_diversity": pytest.approx(0.8899, abs=1e-3)}


def test_levels_are_means_within_groups_by_hand():
    """Two groups of three, two of each measured; two rewards of weights 1 and 2."""
    rewards = torch.tensor([[0.0, 1], [0, 2], [0, 3], [1, 0], [2, 0], [3, 0]])
    watched = torch.full((6, len(STYLE)), math.nan)
    watched[[0, 1, 3, 4], 0] = torch.tensor([0.2, 0.4, 0.6, 1.0])
    watch = watch_in(run := Folder(), 3, weights=(1.0, 2.0))
    watch.note(1, collected(torch.eye(6), rewards, watched))
    [epoch] = watch.epochs
    assert epoch.levels["optimised"] == (4.0, 2.0) and epoch.levels["style/luminance"] == (0.3, 0.8)
    assert epoch.spread["style/luminance"] == pytest.approx(0.2958, abs=1e-4)  # sqrt(0.0875)
    assert all(map(math.isnan, epoch.levels["style/sharpness"]))
    assert watch_in(run).epochs[0].levels["style/luminance"] == (0.3, 0.8)


def test_samples_are_chosen_by_their_places():
    samples = [Sample("p", Image.new("RGB", (8, 8), (place * 20,) * 3), place) for place in (3, 4, 5, 6)]
    watch = SampleWatch(3, 2)
    found = watch.measure(samples, None)
    assert watch.chosen(samples) == [0, 1, 3] and found.isnan().all(1).tolist() == [False, False, True, False]
    assert found[:, 0][[0, 1, 3]].tolist() == pytest.approx([60 / 255, 80 / 255, 120 / 255])
    assert watch.names[0] == "style/luminance" and found.shape == (4, len(watch.names))


def test_features_that_are_not_finite_are_told():
    with pytest.raises(UserError, match="epoch 1: the features of prompt 1 are not finite"):
        watch_in(Folder()).note(1, collected(torch.full((4, 2), math.nan)))


class Counting:
    """A reward of the place, smaller of which is better."""

    name, higher_is_better, dimensions = "place", False, ("value",)

    def __init__(self):
        self.asked = []

    def score(self, samples):
        self.asked.append([sample.seed for sample in samples])
        return SimpleNamespace(values=torch.tensor([[float(sample.seed)] for sample in samples]))


def test_held_out_rewards_score_the_measured_samples_of_the_first_groups():
    samples = [Sample("p", Image.new("RGB", (8, 8)), place) for place in range(9)]
    reward = Counting()
    watch = SampleWatch(3, 2, rewards=(reward,), scored_groups=2)
    found = watch.measure(samples, lambda each, asked: each.score(asked))
    assert watch.names[-1] == "reward/place" and reward.asked == [[0, 1, 3, 4]]
    assert found[[0, 1, 3, 4], -1].tolist() == [0, -1, -3, -4] and found[[2, 5, 6, 7, 8], -1].isnan().all()
    watch.measure(samples[6:], lambda each, asked: each.score(asked))  # another batch: nobody is asked
    assert len(reward.asked) == 1
    groups = watch_in(run := Folder(), 3)
    groups.measured = watch
    groups.note(1, RolloutBatch({}, torch.zeros(9, 1), torch.arange(9) // 3, ["p"] * 9, [], {}, frozenset(), 0,
                                torch.eye(9), found))
    assert groups.epochs[0].values("reward/place") == [(run.rows[0]["prompts"][0], -0.5),
                                                       (run.rows[0]["prompts"][0], -3.5)]
    assert groups.epochs[0].spread["reward/place"] == pytest.approx(1.5811, abs=1e-4)


@pytest.mark.parametrize("share, groups", [(0.0, 0), (0.01, 1), (0.25, 4), (0.9, 14)])
def test_the_share_is_of_all_samples(share, groups):
    """8 prompts x 8 samples, 4 of each measured: a quarter of them all is 4 groups; more groups than there are, all."""
    config = OnlineConfig.model_validate({
        "model": {"source": "tiny-sd3"}, "objective": {"name": "grpo"}, "reward": {"models": ["contrast"]},
        "rollout": {"prompts": "emoji:train", "prompts_per_epoch": 8, "group_size": 8},
        "eval": {"also": ["contrast", "saturation"], "features": "tiny-clip"},
        "guard": {"action": "warn", "watch_rewards": share}})
    found = sample_watch(config, "cpu", "image")
    assert [reward.name for reward in found.rewards] == (["saturation"] if share else [])
    assert found.scored_groups == groups and found.members == 4
    with pytest.raises(ValueError, match="guard.watch_rewards 0.1: no reward is held out to be watched"):
        OnlineConfig.model_validate(config.model_dump() | {"eval": {"also": ["contrast"], "features": "tiny-clip"},
                                                           "guard": {"action": "warn", "watch_rewards": 0.1}})


def test_a_run_asks_a_held_out_reward_and_keeps_what_it_says(online_recipe, tmp_path):
    def recipe(name, **guard):
        return online_recipe(name=f"{name}.yaml", guard={"action": "warn", "every": 8, "max_prompts": 1,
                             "samples_per_prompt": 2, "start_sets": 1} | guard, train={"epochs": 2},
                             eval={"every": 0, "also": ["saturation"]}, output={"folder": str(tmp_path / name)})

    for name, share in (("with", 0.3), ("without", 0.0)):
        assert run(recipe(name, watch_rewards=share)).exit_code == 0
    kept = rows(tmp_path / "with", "watch")
    assert len(kept) == 2 and all({"optimised", "style/luminance", "reward/saturation"} <= set(row["levels"])
                                  for row in kept)
    assert 0 < kept[0]["levels"]["reward/saturation"][0] < 1
    assert "reward/saturation" not in rows(tmp_path / "without", "watch")[0]["levels"]
    for name, value in weights(tmp_path / "with").items():
        assert torch.equal(value, weights(tmp_path / "without")[name])
