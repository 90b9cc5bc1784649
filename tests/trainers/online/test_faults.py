"""What can go wrong in the online loop: rewards, servers, gradients, settings; each ends in one sentence or goes on."""

import threading
import time

import pytest
import torch

from visalign.rewards.base import RewardModel, Scores
from visalign.rewards.registry import REWARDS

from ..commands import fails, rows, run, weights

ODE = {"rollout": {"sampler": "ode"}}


class Scripted(RewardModel):
    """Does what a test says."""

    action = None
    asked = 0

    def score_batch(self, samples):
        type(self).asked += 1
        return type(self).action(samples)


@pytest.fixture
def scripted(monkeypatch):
    """Registers a reward whose answer is the given function of the samples."""
    from dataclasses import dataclass

    def use(action):
        kind = dataclass(type("Scripted", (Scripted,), {"action": staticmethod(action), "asked": 0,
                                                        "__doc__": "Does what a test says."}))
        monkeypatch.setitem(REWARDS, "scripted", kind)
        return kind

    return use


QUIET = {"eval": {"reward": None, "also": [], "features": None}, "reward": {"models": "scripted"}}


def brightness(samples):
    return torch.tensor([[float(sum(s.image.convert("L").resize((1, 1)).getdata()))] for s in samples])


def test_a_reward_that_is_nan_for_some_samples_leaves_them_out_and_counts_them(online_recipe, tmp_path, scripted):
    def some(samples):
        values = brightness(samples)
        values[0] = float("nan")
        return values

    scripted(some)
    run(online_recipe("sd3", **QUIET), "train.epochs=1", "reward.max_failures=0.5")
    row = rows(tmp_path / "run")[0]
    assert row["unscored"] == 2 and row["trained_samples"] == 6


def test_too_many_unscored_samples_stop_the_run_with_the_reason(online_recipe, scripted):
    scripted(lambda samples: torch.full((len(samples), 1), float("nan")))
    message = fails(online_recipe("sd3", **QUIET))
    assert "reward scripted: 100% of the epoch's samples have no score" in message and "finite number" in message


def test_one_of_several_rewards_that_scores_nothing_stops_the_run(online_recipe, scripted):
    scripted(lambda samples: torch.full((len(samples), 1), float("nan")))
    message = fails(online_recipe("sd3", **{"eval": QUIET["eval"], "reward": {"models": ["contrast", "scripted"]}}))
    assert "100% of the epoch's samples have no score or lack one" in message and "scripted" in message


def test_a_reward_that_does_not_apply_drops_out_without_being_asked_again(online_recipe, tmp_path):
    # `colour` refuses prompts that name no colour: cat face is scored by contrast alone, and nobody waits
    started = time.perf_counter()
    run(online_recipe("sd3", **{"eval": QUIET["eval"], "reward": {"models": ["contrast", "colour"], "retry_wait": 60}}),
        "train.epochs=2")
    assert time.perf_counter() - started < 50 and rows(tmp_path / "run")[0]["unscored"] == 0


def test_a_constant_reward_changes_nothing_and_stops_after_a_while(online_recipe, tmp_path, scripted):
    scripted(lambda samples: torch.ones(len(samples), 1))
    message = fails(online_recipe("sd3", **QUIET), "train.epochs=9", "train.patience=2")
    assert "epoch 2: for 2 epochs no sample could be trained on" in message
    row = rows(tmp_path / "run")[0]
    assert row["zero_std_ratio"] == 1 and row["trained_samples"] == 0 and row["updates"] == 0


def test_a_reward_of_the_wrong_shape_is_named(online_recipe, monkeypatch, scripted):
    kind = scripted(brightness)

    def wrong(self, samples):
        return Scores(torch.zeros(len(samples)))

    monkeypatch.setattr(kind, "score", wrong)
    assert "reward scripted: answered with shape (4,) where (4, 1)" in fails(online_recipe("sd3", **QUIET))


def test_a_reward_that_raises_is_asked_again_and_then_named(online_recipe, scripted):
    def broken(samples):
        raise RuntimeError("the reward\nis tired")

    kind = scripted(broken)
    message = fails(online_recipe("sd3", **QUIET), "rollout.batch_size=8")
    assert "reward scripted: failed 3 times, last with RuntimeError: the reward is tired" in message
    assert kind.asked == 3


def test_a_reward_that_raises_once_is_forgiven(online_recipe, tmp_path, scripted):
    def once(samples):
        if kind.asked == 2:
            raise RuntimeError("only now")
        return brightness(samples)

    kind = scripted(once)
    run(online_recipe("sd3", **QUIET), "train.epochs=1")
    assert rows(tmp_path / "run")[0]["unscored"] == 0


def test_a_reward_that_hangs_ends_the_run_in_time(online_recipe, scripted):
    release = threading.Event()
    scripted(lambda samples: release.wait(60) or brightness(samples))
    started = time.perf_counter()
    message = fails(online_recipe("sd3", **QUIET), "reward.timeout=1")
    release.set()
    assert "no scores for a batch within reward.timeout 1 s" in message and time.perf_counter() - started < 30


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_reward_server_that_dies_during_the_run(online_recipe, tmp_path, comes_back):
    from ...rewards.vlm.server import ChatServer

    def reply(text, images, count):
        if count > 8 and (count <= 14 or not comes_back):
            return None
        return str(1 + len(images[0]) % 5)

    with ChatServer(reply) as server:
        reward = {"kind": "vlm", "url": server.url, "retries": 0, "cache": None, "concurrency": 1,
                 "principles": {"alignment": "Does it fit?"}}
        recipe = online_recipe("sd3", **{"eval": QUIET["eval"], "reward": {"models": [reward], "retries": 3},
                                         "train": {"epochs": 2, "patience": 9}})
        if comes_back:
            run(recipe)
            assert len(rows(tmp_path / "run")) == 2
        else:
            message = fails(recipe)
            assert "no score" in message and server.url in message and "--resume" in message
            assert len(rows(tmp_path / "run")) == 1 and weights(tmp_path / "run", 1)


def test_rewards_score_while_the_next_batch_is_sampled(online_recipe, tmp_path, scripted):
    who = set()

    def note(samples):
        who.add(threading.current_thread() is threading.main_thread())
        return brightness(samples)

    scripted(note)
    run(online_recipe("sd3", **QUIET), "train.epochs=1")
    assert who == {False}


def test_gradients_that_are_not_finite_are_skipped_counted_and_end_the_run(online_recipe, tmp_path, monkeypatch):
    from visalign.trainers.online import loop as online

    calls = []
    honest = online.OnlineTrainer.reduce_gradients

    def poisoned(self):
        honest(self)
        calls.append(1)
        if len(calls) >= 2:
            self.parameters[0].grad.fill_(float("nan"))

    monkeypatch.setattr(online.OnlineTrainer, "reduce_gradients", poisoned)
    message = fails(online_recipe("sd3", **{"eval": QUIET["eval"]}), "train.epochs=9", "train.patience=3")
    assert "3 updates in a row had a gradient that is not finite" in message and "step-00000003" in message
    assert [row["bad_updates"] for row in rows(tmp_path / "run")] == [0, 1, 2]
    first, last = weights(tmp_path / "run", 2), weights(tmp_path / "run", 3)
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_the_self_check_finds_a_policy_that_is_not_the_one_that_sampled(online_recipe, monkeypatch):
    from visalign.trainers.online import views

    honest = views.StepView.build

    def other_guidance(self, batch, term):
        from dataclasses import replace
        return honest(self, replace(batch, guidance=replace(batch.guidance, scale=4.0)), term)

    monkeypatch.setattr(views.StepView, "build", other_guidance)
    message = fails(online_recipe("sd3"))
    assert "self-check: before the first update the ratio at sampling step" in message and "guidance" in message


def test_the_self_check_blames_dropout_and_coarse_arithmetic(online_recipe, monkeypatch):
    from visalign.trainers.online import loop as online
    from visalign.trainers.online import self_check

    monkeypatch.setattr(self_check, "RATIO_TOLERANCE", dict.fromkeys(self_check.RATIO_TOLERANCE, -1.0))
    monkeypatch.setattr(online.OnlineTrainer, "batch", _then_training(online.OnlineTrainer.batch))
    assert "training mode" in fails(online_recipe("sd3"))


def _then_training(collect):
    def wrapped(self, *arguments):
        collected = collect(self, *arguments)
        self.generator.denoiser.train()
        return collected

    return wrapped


@pytest.mark.parametrize("overrides, message", [
    (["rollout.group_size=1", "rollout.batch_size=1"], "rollout.group_size 1: one sample of a prompt"),
    (["rollout.prompts_per_epoch=3", "rollout.batch_size=8"],
     "rollout.prompts_per_epoch 3 x rollout.group_size 4 = 12 samples are not a multiple of rollout.batch_size 8"),
    (["train.updates_per_epoch=3"], "2 sampling batches of 4, which cannot be divided among train.updates_per_epoch 3"),
    (["objective.name=d3po", "rollout.batch_size=2"], "rollout.batch_size 2 must be a multiple of rollout.group_size"),
    (["objective.name=d3po", "train.batch_size=1"], "train.batch_size 1 must be at least 2"),
    (["advantage.baseline=median"], "rollout.group_size 4: must be odd"),
    (["advantage.baselin=mean"], "unknown key advantage.baselin (did you mean 'baseline'"),
    (["advantage.clip=0"], "advantage.clip is 0: it must be greater than 0"),
    (["advantage.gate=nothing"], "advantage.gate nothing: names no reward; the rewards are colourfulness"),
    (["rollout.sampler=ddim"], "rollout.sampler ddim is not for flow models"),
    (["rollout.sampler=ode"], "rollout.sampler ode with noise_level 0.7 and clean_steps 0 adds no noise"),
    (["rollout.noise_level=0"], "adds no noise"), (["model.lora.dropout=0.1"], "model.lora.dropout must be 0"),
    (["objective.name=draft", "reward.models=jpeg"], "reward jpeg: has no gradient"),
    (["objective.name=direct_align", "reward.models=jpeg"], "reward jpeg: has no gradient"),
    (["objective={name: direct_align, noisiest: 0.97, branches: both}"], "must be below 1 for branches both"),
    (["objective={name: direct_align, cleanest: 0.01}"], "distance 0.05 leads beyond clean data"),
    (["objective={name: direct_align, branch: both}"], "did you mean 'branches'"),
    (["reward.models=[{kind: relative, of: tiny-clip, good: yellow}]"], "reward relative: bad is missing"),
    (["advantage.rarity=0.3", "reward.features=tiny-clip", "objective={name: direct_align}", "reward.models=tiny-clip"],
     "and direct_align takes none"),
    (["reward.models=[]"], "set exactly one of reward.models"), (["reward.models=colour_fulness"],
                                                                 "did you mean 'colourfulness'"),
    (["reward.models=[{reward: tiny-reward, dimension: beauty}]"], "has no dimension beauty"),
    (["reward.models=[jpeg, jpeg]"], "are not distinct"), (["objective.name=flow_dpo"], "which is not an objective"),
    (["rollout.window={size: 9}"], "rollout.window.size 9 does not fit"),
    (["rollout.same_noise=true", "rollout.sampler=ode"], "all samples of a prompt the same"),
    (["rollout.guidance_apart=true", "rollout.detach_negative=false"], "wants gradients from both"),
    (["rollout.prompts=missing.txt"], "prompts missing.txt: there is no such file"),
    (["objective.clip=-1"], "objective.clip is -1: it must be greater than 0"),
    (["advantage.rarity=0.3"], "advantage.rarity and reward.features go together"),
    (["reward.features=tiny-clip"], "advantage.rarity and reward.features go together"),
    (["advantage.rarity=0.3", "reward.features=sharpness"], "reward.features sharpness: is no open_clip model"),
    (["advantage.rarity=0.3", "reward.features=tiny-clip", "rollout.group_size=2"],
     "rollout.group_size 2: must be at least 3 with advantage.rarity"),
    (["advantage.rarity=0.3", "advantage.kinds=4", "reward.features=tiny-clip"], "advantage.kinds 4: must be below"),
    (["advantage.rarity=0.3", "reward.features=tiny-clip", "objective={name: draft}", "reward.models=tiny-clip"],
     "and draft takes none"),
    (["advantage.rarity=0.3", "advantage.history=4"], "combine rewards and without history"),
    (["objective.kl=early", "objective.beta=0.1"], "kl early needs the number of first steps in kl_steps"),
    (["objective.kl=early", "objective.beta=0.1", "objective.kl_steps=1", "rollout.window={size: 1, first: 1}"],
     "rollout.window.first 1 leaves the first 1 steps untrained"),
    (["objective={name: grpo_guard, step_weight: noise}"], "grpo_guard gives every step the same gradient"),
    (["rollout.tail={ratio: 0.4}"], "rollout.tail shortens what follows a window that slides"),
    (["rollout.tail={ratio: 0.4}", "rollout.window={size: 1}"], "set rollout.window with schedule progressive"),
    (["rollout.tail={ratio: 0.4}", "rollout.window={size: 1, schedule: progressive}", "rollout.sampler=ode"],
     "is ode: use flow_sde"),
    (["rollout.tail={ratio: 0}"], "rollout.tail.ratio"),
    (["objective={name: dgpo}", "rollout.batch_size=2"], "must be a multiple of rollout.group_size 4: this method"),
    (["objective={name: dgpo}", "train.batch_size=2"], "train.batch_size 2 must be at least 4"),
    (["objective={name: dgpo}", "advantage.baseline=none"], "objective.name dgpo needs advantages that add up to 0"),
    (["objective={name: dgpo}", "advantage.history=8"], "advantage.history 8: objective.name dgpo needs"),
    (["objective={name: crd, temperature: 0}"], "objective.temperature is 0: it must be greater than 0"),
    (["objective={name: crd, draws: sample}"], "unknown key objective.draws for crd"),
    (["rollout.grup_size=2"], "unknown key rollout.grup_size (did you mean 'group_size'"),
])
def test_mistakes_end_in_one_sentence_that_names_them(online_recipe, tmp_path, overrides, message):
    said = fails(online_recipe("sd3"), *overrides)
    assert message in said
    assert not (tmp_path / "run").exists()  # found before a model was loaded and a run begun


def test_a_reward_that_compares_needs_whole_groups(online_recipe, tmp_path, scripted):
    scripted(brightness).needs_group = True
    said = fails(online_recipe("sd3", **QUIET), "rollout.batch_size=2")
    assert "rollout.batch_size 2 must be a multiple of rollout.group_size 4: reward scripted compares" in said
    assert not (tmp_path / "run").exists()


def test_a_diffusion_model_is_told_which_objectives_fit(online_recipe):
    said = fails(online_recipe("sdxl", "nft", **ODE)).replace("flow_dppo, ", "")
    assert "use one of crd, d3po, dgpo, direct_align, draft, grpo, grpo_guard, pairs_in_group, raft, spo" in said


def test_fewer_prompts_than_an_epoch_asks_for_are_sampled_more_than_once(online_recipe, tmp_path):
    run(online_recipe("sd3", **{"eval": QUIET["eval"]}), "rollout.prompts_per_epoch=6", "rollout.max_prompts=2",
        "train.epochs=1")
    row = rows(tmp_path / "run")[0]
    assert row["unique_prompts"] == 2 and row["trained_samples"] == 24


def test_changed_settings_cannot_continue_a_run(online_recipe):
    recipe = online_recipe("sd3", **{"eval": QUIET["eval"]})
    run(recipe, "train.epochs=1")
    assert "rollout.noise_level was 0.7 and is 0.5" in fails(recipe, "rollout.noise_level=0.5", "--resume")
